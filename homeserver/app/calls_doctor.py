# SPDX-License-Identifier: Apache-2.0
"""`lares doctor calls`: the examination of calls, put together from the command line.

Owns the caller's account, by which the running server's echo account is called: one of the server's own without a
password, logged in for the examination alone, straight in the database.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from typing import Any, Final

import psycopg2

from homeserver.accounts.credentials import now_ms
from homeserver.accounts.sessions import DeviceRequest, Sessions
from homeserver.accounts.token_cache import TokenCache
from homeserver.app.running import run_to_end
from homeserver.calls.doctor.asking import MediaAsker, MediaFailed
from homeserver.calls.doctor.echo import EchoCaller
from homeserver.calls.doctor.livekit import LiveKit, without_livekit
from homeserver.calls.doctor.turn import examine_turn
from homeserver.calls.media.process import MediaProcess, is_installed
from homeserver.calls.rtc.tokens import LiveKitTokens
from homeserver.calls.turn import turn_credentials
from homeserver.config import Config, StartRefused
from homeserver.config.private_file import given_or_read
from homeserver.config.sections import listener_url
from homeserver.observability.findings import Part, Report, note, problem
from homeserver.outgoing import OutgoingClient, make_client
from storage.database import Database, DatabaseFailure, Transaction
from storage.devices import DeviceStore
from storage.embedded_access import running_embedded_database
from storage.tokens import TokenStore
from storage.users import SERVERS_OWN, NewUser, UserStore

LONGEST: Final = 300.0
CALLER: Final = "_lares_doctor"
"""People cannot register names that begin so."""
_DEVICE: Final = "DOCTOR"


def examine_calls(config: Config) -> Report:
    """The report. Blocks. Raises StartRefused if it could not be made."""
    if not is_installed():
        raise StartRefused("the examination needs aiortc, which is not installed: pip install 'lares[calls]'")
    return run_to_end(lambda reactor: examine(reactor, config), LONGEST)


async def examine(reactor: Any, config: Config) -> Report:
    """The same on a reactor that runs."""
    http = make_client(reactor, config.federation)
    asker = MediaAsker(lambda watcher: MediaProcess(reactor, watcher))
    try:
        return Report(
            f"the calls of {config.server_name}",
            (
                *await _turn_parts(config, asker),
                await _echo_part(reactor, config, http, asker),
                await _livekit_part(config, http),
            ),
        )
    finally:
        await asker.close()
        http.close()


async def _turn_parts(config: Config, asker: MediaAsker) -> list[Part]:
    credentials = turn_credentials(config.turn)
    user_id = f"@{CALLER}:{config.server_name}"
    login = None if credentials is None else credentials.for_user(user_id, time.time())
    try:
        return await examine_turn(asker, login)
    except MediaFailed as error:
        finding = problem(f"It could not be examined: {error}.", "Is aiortc installed as a whole?")
        return [Part("TURN", (finding,))]


async def _livekit_part(config: Config, http: OutgoingClient) -> Part:
    rtc = config.rtc
    secret = given_or_read(rtc.api_secret, rtc.api_secret_file)
    if rtc.livekit_url is None or rtc.api_key is None or secret is None:
        return without_livekit()
    tokens = LiveKitTokens(api_key=rtc.api_key, api_secret=secret, clock=time.time)
    return await LiveKit(http=http, livekit_url=rtc.livekit_url, api_url=rtc.api_url, tokens=tokens).examine()


async def _echo_part(reactor: Any, config: Config, http: OutgoingClient, asker: MediaAsker) -> Part:
    echo = config.echo_user_id
    if echo is None:
        finding = note(
            "There is no echo account (calls.echo_user), which people can call to try their side.",
            "Set calls: {echo_user: echo}.",
        )
        return Part("Echo account", (finding,))
    dsn = config.database.url or running_embedded_database(config.data_dir)
    if dsn is None:
        finding = problem(
            "The server does not run, so its echo account answers nobody.", "Start it: lares serve."
        )
        return Part(f"Echo account: {echo}", (finding,))
    database = Database(reactor, dsn)
    door = _Door(config, database)
    try:
        caller = EchoCaller(
            http=http, base_url=_own_url(config), token=await door.open(), echo=echo, asker=asker
        )
        findings = await caller.examine()
    except MediaFailed as error:
        findings = [problem(f"A call could not be made: {error}.", "Is aiortc installed as a whole?")]
    except (DatabaseFailure, psycopg2.Error) as error:
        advice = "Run this as the server's user, with its configuration."
        findings = [problem(f"The server's database cannot be used: {error}".strip(), advice)]
    finally:
        await door.close()
        await database.close()
    return Part(f"Echo account: {echo}", tuple(findings))


def _own_url(config: Config) -> str:
    """Where the running server answers clients: on this machine if that goes without a certificate's name."""
    plain = [
        each for each in config.listeners if "client" in each.serves and each.port != 0 and each.tls is None
    ]
    return listener_url(plain[0]) if plain else config.base_url


class _Door:
    """Logs the caller's account in, and out again."""

    def __init__(self, config: Config, database: Database) -> None:
        self._user_id = f"@{CALLER}:{config.server_name}"
        self._database = database
        self._users = UserStore(database)
        self._devices = DeviceStore(database)
        self._sessions = Sessions(
            settings=config.sessions,
            database=database,
            devices=self._devices,
            tokens=TokenStore(database),
            cache=TokenCache(now_ms),
            clock=now_ms,
        )
        self._is_open = False
        self._device_id = f"{_DEVICE}{secrets.token_hex(3).upper()}"

    async def open(self) -> str:
        """An access token, which expires by itself if `close` is never reached."""
        user = NewUser(user_id=self._user_id, password_hash=None, user_type=SERVERS_OWN)
        device = DeviceRequest(device_id=self._device_id, display_name="lares doctor", refresh=True)

        async def work(txn: Transaction) -> str:
            await self._users.create_txn(txn, user, now_ms())
            await self._users.lock_txn(txn, self._user_id)
            token = (await self._sessions.open_txn(txn, self._user_id, device)).access_token
            assert token is not None
            return token

        token = await self._database.transaction("doctor_login", work)
        self._is_open = True
        return token

    async def close(self) -> None:
        """Log out. A database that is gone keeps the session until it expires."""
        if not self._is_open:
            return
        with contextlib.suppress(DatabaseFailure, psycopg2.Error):
            await self._devices.delete(self._user_id, (self._device_id,))
