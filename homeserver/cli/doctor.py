# SPDX-License-Identifier: Apache-2.0
"""`lares doctor`: whether a server can be found, reached and believed by others; `… calls`: whether calls work.

Owns the printing of the reports. What is examined is the federation's, and the calls'.
"""

import argparse
import json

from homeserver.cli.command import Commands, add_config_option, command_parser, config_of
from homeserver.config import Config
from homeserver.observability.findings import Report

CALLS = "calls"
"""A server of this name is examined as calls:8448."""


def add_parser(commands: Commands) -> None:
    """Add this command to the command line."""
    parser = command_parser(
        commands,
        "doctor",
        run=_run,
        summary="examine how a server federates, or how its calls work",
        description=(
            "Look for a server as other servers do and say in plain words what is found: delegation, SRV records,\n"
            "addresses (IPv4 and IPv6), certificate, signing keys, version and clock; and for this server's own name,\n"
            "whether what others find is this server. Seen from this machine: a firewall that treats others worse\n"
            "does not show.\n"
            "With `calls` instead of a server name: try each TURN URI, a call through it, a call to the echo account\n"
            "of the running server, and LiveKit, all with this configuration.\n"
            "Exit code 0: no problem; 1: problems, each with what to change."
        ),
        example="lares doctor --config lares.yaml\nlares doctor example.org --json\nlares doctor calls",
    )
    add_config_option(parser)
    parser.add_argument(
        "server_name",
        nargs="?",
        metavar="SERVER",
        help="server name; this server's own without one; or the word calls",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _run(arguments: argparse.Namespace) -> int:
    config = config_of(arguments)
    report = _calls(config) if arguments.server_name == CALLS else _server(config, arguments.server_name)
    print(json.dumps(report.as_dict(), indent=2) if arguments.json else report.as_text())
    return 1 if report.problems else 0


def _server(config: Config, server_name: str | None) -> Report:
    from homeserver.app.doctor import examine_server

    return examine_server(config, server_name)


def _calls(config: Config) -> Report:
    from homeserver.app.calls_doctor import examine_calls

    return examine_calls(config)
