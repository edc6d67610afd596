# SPDX-License-Identifier: Apache-2.0
"""What the commands have in common: the shape of their parsers and the `--config` option.

Owns no command.
"""

import argparse
from collections.abc import Callable
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
