# SPDX-License-Identifier: Apache-2.0
"""The limit of open files: what was asked for, as far as the system allows."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from tests.serving import CHECKOUT

SCRIPT = """
import resource, sys
from homeserver.app.open_files import allow_open_files
soft, hard, wanted = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
allowed = allow_open_files(wanted)
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (allowed, hard)
print(allowed)
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "allowed"),
    [(256, 900, 700, 700), (256, 900, 65536, 900), (900, 900, 320, 320), (512, 512, 512, 512)],
)
def test_the_limit_is_what_was_asked_for(soft: int, hard: int, wanted: int, allowed: int) -> None:
    """Raised or lowered, the hard limit left as it is."""
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= hard
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(soft), str(hard), str(wanted)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == f"{allowed}\n"
