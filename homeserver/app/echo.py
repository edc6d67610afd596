# SPDX-License-Identifier: Apache-2.0
"""The echo account, put together and begun, where it is configured."""

from __future__ import annotations

from typing import Any

from homeserver.app.core import Core
from homeserver.app.services import Services
from homeserver.calls.echo.account import EchoActor, ensure_account
from homeserver.calls.echo.calls import EchoCalls
from homeserver.calls.echo.chats import EchoChats
from homeserver.calls.echo.service import Echo
from homeserver.calls.media.process import MediaProcess, is_installed
from homeserver.config import Config, StartRefused
from storage.echo import EchoStore

DISPLAY_NAME = "Echo"


async def start_echo(reactor: Any, config: Config, core: Core, services: Services) -> Echo | None:
    """Make the account if need be, and let it answer from now on.

    Raises StartRefused where what it needs is not installed, or its name is a person's.
    """
    own = config.echo_user_id
    if own is None:
        return None
    if not is_installed():
        raise StartRefused(
            "calls.echo_user needs aiortc, which is not installed: pip install 'lares[calls]', or remove the key"
        )
    await ensure_account(services.users, services.accounts.maker, own, DISPLAY_NAME)
    rooms = services.rooms
    chats = EchoChats(
        actor=EchoActor(own),
        rooms=core.cache,
        joining=rooms.joining,
        leaving=rooms.leaving,
        sending=rooms.sending,
    )
    store = EchoStore(core.database, core.origin)
    calls = EchoCalls(
        own=own,
        chats=chats,
        kept=store,
        media=lambda watcher: MediaProcess(reactor, watcher, bounds={"silence": config.calls.silence}),
        relays=services.calls.turn,
        scheduler=reactor,
    )
    echo = Echo(
        reactor,
        own=own,
        store=store,
        stream=core.stream,
        long_poll=services.long_poll,
        chats=chats,
        calls=calls,
        alone=config.database.url is None and config.workers == 1,
    )
    echo.start()
    return echo
