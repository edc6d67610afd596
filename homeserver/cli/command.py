# SPDX-License-Identifier: Apache-2.0
"""What the commands have in common: the shape of their parsers and the `--config` option.

Owns no command.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from homeserver.config import Config, load

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Run = Callable[[argparse.Namespace], int]


def command_parser(
    commands: Commands,
    name: str,
    *,
    run: Run,
    summary: str,
    description: str,
    example: str,
) -> argparse.ArgumentParser:
    """Add a command. `example` is shown at the end of its help, indented; `run` gives the exit code."""
    lines = "\n".join(f"  {line}" for line in example.splitlines())
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"example:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


class AnyOrder(argparse.ArgumentParser):
    """A parser of a command whose options may also stand between its positional arguments."""

    _taking_apart = False

    def parse_known_args(  # type: ignore[override]  # the overloads differ in the namespace's type only
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As the parent's, whose `parse_known_intermixed_args` comes back here for each half of the work."""
        if self._taking_apart:
            return super().parse_known_args(args, namespace)
        self._taking_apart = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._taking_apart = False


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """Add `--config FILE`; `config_of` reads it."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="configuration file; without one: server name localhost, http://127.0.0.1:8008, data in ./data",
    )


def config_of(arguments: argparse.Namespace) -> Config:
    """The configuration that `--config` names, or the defaults. Raises ConfigError."""
    return load(arguments.config)
