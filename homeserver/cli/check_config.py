# SPDX-License-Identifier: Apache-2.0
"""`lares check-config`: check a configuration file without starting anything.

Owns the report: what the configuration comes to, and what is allowed but rarely meant.
"""

import argparse
from collections.abc import Iterator

from homeserver.cli.command import Commands, add_config_option, command_parser, config_of
from homeserver.config import Config
from homeserver.config.sections import listener_url
from homeserver.config.server_name import is_local


def add_parser(commands: Commands) -> None:
    """Add this command to the command line."""
    parser = command_parser(
        commands,
        "check-config",
        run=_run,
        summary="check a configuration file and say what it comes to",
        description=(
            "Check a configuration file: keys, types, values, what they are to each other, and whether the\n"
            "files it names can be read. Exit code 0: usable; 2: not, and each wrong key is named."
        ),
        example="lares check-config --config lares.yaml",
    )
    add_config_option(parser)


def _run(arguments: argparse.Namespace) -> int:
    config = config_of(arguments)
    for name, value in _summary(config):
        print(f"{name + ':':<14} {value}")
    for warning in _warnings(config):
        print(f"note: {warning}")
    print("the configuration is valid")
    return 0


def _summary(config: Config) -> Iterator[tuple[str, str]]:
    yield "server name", config.server_name
    yield "base URL", config.base_url
    yield "data", str(config.data_dir)
    # The URL itself carries a password.
    yield "database", "embedded" if config.database.url is None else "database.url"
    for listener in config.listeners:
        yield "listener", f"{listener_url(listener)} ({', '.join(listener.serves)})"
    yield "federation", "on" if config.federation.enabled else "off"
    yield "registration", _registration(config)


def _registration(config: Config) -> str:
    if not config.registration.enabled:
        return "closed"
    return "with a token" if config.registration.requires_token else "open"


def _warnings(config: Config) -> Iterator[str]:
    local = is_local(config.server_name)
    if config.registration.enabled and not config.registration.requires_token:
        yield "anyone may register: registration.requires_token is false"
    if not local and config.base_url.startswith("http://"):
        yield "clients and passwords travel unencrypted: the base URL is not https"
    if not config.federation.verify_certificates:
        yield "other servers need not prove who they are: federation.verify_certificates is false"
    if not config.rate_limits.enabled:
        yield "passwords may be guessed without limit: rate_limits.enabled is false"
    if config.federation.enabled and not any("federation" in each.serves for each in config.listeners):
        yield "other servers cannot reach this one: no listener serves federation"
