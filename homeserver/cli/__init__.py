# SPDX-License-Identifier: Apache-2.0
"""The command line: `lares serve | generate-config | register-user | check-config | doctor | federation | storage |
version`.

Owns the table of commands and what an error becomes: a sentence on standard error and an exit code, 2 for a
wrong call or configuration, 1 for a refusal, 130 for Ctrl-C. Each command is a module that adds its own
parser; what a command does beyond talking to a terminal belongs to the packages below. A command that is named
is imported alone: what the others bring along would stay in memory for as long as a server runs.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from homeserver.cli.command import AnyOrder, Commands
from homeserver.config.errors import ConfigError, StartRefused

_COMMANDS = (
    "serve",
    "generate-config",
    "register-user",
    "check-config",
    "doctor",
    "federation",
    "storage",
    "version",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Wrong usage leaves through SystemExit(2), as argparse does."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    named = words[:1] if words[:1] and words[0] in _COMMANDS else _COMMANDS
    parsed = _parser(named).parse_args(words)
    try:
        exit_code: int = parsed.run(parsed)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except StartRefused as error:
        print(f"lares: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return exit_code


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lares",
        description="A federated Matrix homeserver.",
        epilog="`lares COMMAND --help` explains a command and gives an example.",
    )
    commands: Commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=AnyOrder
    )
    for name in names:
        import_module(f"homeserver.cli.{name.replace('-', '_')}").add_parser(commands)
    return parser
