# SPDX-License-Identifier: Apache-2.0
"""`lares storage report`: what takes how much of the disk.

Owns what may be asked. The database that the running server uses is read, its embedded one too, by `storage_status`.
"""

import argparse

from homeserver.cli.command import Commands, add_config_option, command_parser, config_of


def add_parser(commands: Commands) -> None:
    """Add this command to the command line."""
    parser = command_parser(
        commands,
        "storage",
        run=_run,
        summary="say what takes how much of the disk",
        description=(
            "Say how many bytes of the database are for what, what a message and a change of state take, and which\n"
            "rooms are the largest. Must be run with the configuration of the running server, as its user. Counts are\n"
            "estimates unless everything is to be counted, which reads every event."
        ),
        example="lares storage report\nlares storage report --json\nlares storage report --exact",
    )
    parser.add_argument("action", choices=("report",), help="what to do")
    parser.add_argument("--exact", action="store_true", help="count everything: minutes on a large server")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_config_option(parser)


def _run(arguments: argparse.Namespace) -> int:
    config = config_of(arguments)
    from homeserver.cli.storage_status import act

    return act(arguments, config)
