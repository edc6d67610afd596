# SPDX-License-Identifier: Apache-2.0
"""`lares serve`: run the server until it is told to stop.

Owns only the call of the composition root, which is imported late so that the other commands start at once.
"""

import argparse

from homeserver.cli.command import Commands, add_config_option, command_parser, config_of


def add_parser(commands: Commands) -> None:
    """Add this command to the command line."""
    parser = command_parser(
        commands,
        "serve",
        run=_run,
        summary="run the server",
        description=(
            "Run the server until SIGTERM or Ctrl-C. Prints one line `ready: …` once it accepts requests,\n"
            "and logs to standard error."
        ),
        example="lares serve --config lares.yaml",
    )
    add_config_option(parser)


def _run(arguments: argparse.Namespace) -> int:
    config = config_of(arguments)
    from homeserver.app import run_server

    run_server(config)
    return 0
