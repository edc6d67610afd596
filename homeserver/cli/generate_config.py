# SPDX-License-Identifier: Apache-2.0
"""`lares generate-config`: print a configuration to start from.

Owns the choice of what is filled in; the text comes from `config.example`.
"""

import argparse
import sys

from homeserver.cli.command import Commands, command_parser
from homeserver.config.errors import ConfigError
from homeserver.config.example import example
from homeserver.config.server_name import server_name_problem


def add_parser(commands: Commands) -> None:
    """Add this command to the command line."""
    parser = command_parser(
        commands,
        "generate-config",
        run=_run,
        summary="print a configuration file with every key explained",
        description="Print a configuration file that holds every key, its explanation and its default.",
        example="lares generate-config --server-name example.org > lares.yaml",
    )
    parser.add_argument(
        "--server-name",
        metavar="NAME",
        help="the name behind the colon of every user, such as example.org (default: localhost)",
    )


def _run(arguments: argparse.Namespace) -> int:
    name: str | None = arguments.server_name
    if name is not None:
        problem = server_name_problem(name)
        if problem is not None:
            raise ConfigError("--server-name", [f"{problem}; it is {name!r}"])
    sys.stdout.write(example(server_name=name))
    return 0
