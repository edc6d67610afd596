# SPDX-License-Identifier: Apache-2.0
"""An examination from the command line: what it needs of a server, built without starting one.

Touches neither the database nor a running server, and makes no file.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from federation.discovery import make_discovery
from federation.doctor import Examiner, Own, Report
from homeserver.app.running import run_to_end
from homeserver.config import Config
from homeserver.config import signing_key as signing_keys
from homeserver.outgoing import AddressPolicy, make_client
from homeserver.outgoing.inspection import Inspector
from homeserver.outgoing.names import SystemResolver

LONGEST = 300.0
"""Seconds a whole examination may take: a server may have eight places with four addresses each."""


def examine_server(config: Config, server_name: str | None) -> Report:
    """The report about a server, by default this one. Blocks. Raises StartRefused if it could not be made."""
    return run_to_end(lambda reactor: examine(reactor, config, server_name or config.server_name), LONGEST)


async def examine(reactor: Any, config: Config, server_name: str) -> Report:
    """The same on a reactor that runs."""
    resolver = SystemResolver(reactor)
    settings = config.federation
    policy = AddressPolicy(deny=settings.deny_ip_ranges, allow=settings.allow_ip_ranges)
    client = make_client(reactor, settings, resolver=resolver)
    examiner = Examiner(
        discovery=make_discovery(reactor, client),
        client=client,
        inspector=Inspector(reactor, resolver=resolver, policy=policy),
        own=own_identity(config),
        now=lambda: datetime.now(UTC),
    )
    try:
        return await examiner.examine(server_name)
    finally:
        client.close()


def own_identity(config: Config) -> Own:
    """This server's name and key; no key is made. Raises StartRefused if the key file cannot be used."""
    if not (config.data_dir / signing_keys.FILE_NAME).exists():
        return Own(config.server_name, {})
    key = signing_keys.load_or_create_signing_key(config.data_dir)
    return Own(config.server_name, {key.key_id: key.verify_key})
