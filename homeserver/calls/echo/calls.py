# SPDX-License-Identifier: Apache-2.0
"""The calls of the echo account: each from its invite to the report, what is heard handed to the media process.

Owns who gets a call: a user of this server, one call at a time, a few at once. What happens in a call happens in order.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock

from homeserver.calls.echo import signalling
from homeserver.calls.echo.explaining import explain
from homeserver.calls.echo.signalling import Invite
from homeserver.calls.media.messages import CallReport, Ending, IceServer, stopped
from homeserver.calls.turn import TurnLogin
from homeserver.needs import Protocol
from storage.echo import LeftCall

logger = logging.getLogger(__name__)

MOST_CALLS = 4
IDLE = 120.0
"""Seconds without a call after which the media process, some sixty megabytes, is let go."""
OVERDUE = 180.0
"""Seconds after which a call that has not ended has hung the media process, which else bounds its calls itself."""
REPORT = "org.lares.calls.report"
"""The report as JSON, beside the text of the notice."""

BUSY = "The echo has as many calls as it takes at once; please try again in a minute."
BEGUN_ANEW = "The server was started again in the middle of this call; please call once more."

_REASONS: Mapping[Ending, str] = {
    "over": "user_hangup",
    "vanished": "ice_failed",
    "no_path": "ice_failed",
    "no_handshake": "ice_failed",
    "unusable": "user_media_failed",
}
"""Of `m.call.hangup`; unknown_error for what else ends a call."""


class Chats(Protocol):
    """What is needed of `chats.EchoChats`."""

    async def other_user(self, room_id: str) -> str | None: ...
    async def send(self, room_id: str, event_type: str, content: Mapping[str, Any]) -> bool: ...
    async def say(self, room_id: str, text: str, **more: Any) -> None: ...


class Kept(Protocol):
    """What is needed of `storage.echo.EchoStore`."""

    async def begin(self, call: LeftCall) -> None: ...
    async def end(self, room_id: str, call_id: str) -> None: ...


class Media(Protocol):
    """What is needed of `media.process.MediaProcess`."""

    def send(self, command: Mapping[str, Any]) -> None: ...
    def rest(self) -> Deferred[None]: ...


class Scheduler(Protocol):
    """The reactor's part that is needed here."""

    def callLater(self, delay: float, fn: Callable[..., object], /, *args: object) -> Any: ...  # noqa: N802


class Relays(Protocol):
    """Credentials of the TURN server (`homeserver.calls.turn.TurnCredentials`)."""

    def for_user(self, user_id: str, now: float) -> TurnLogin: ...


@dataclass(slots=True)
class _Call:
    invite: Invite
    media_id: str
    party_id: str
    lock: DeferredLock = field(default_factory=DeferredLock)
    overdue: Any = None

    @property
    def key(self) -> tuple[str, str]:
        return self.invite.room_id, self.invite.call_id


class EchoCalls:
    """One per process; `Watcher` of its media process."""

    def __init__(
        self,
        *,
        own: str,
        chats: Chats,
        kept: Kept,
        media: Callable[[EchoCalls], Media],
        relays: Relays | None,
        scheduler: Scheduler,
        most: int = MOST_CALLS,
    ) -> None:
        self._own = own
        self._chats = chats
        self._kept = kept
        self._relays = relays
        self._scheduler = scheduler
        self._idle: Any = None
        self._most = most
        self._media = media(self)
        self._by_key: dict[tuple[str, str], _Call] = {}
        self._by_media: dict[str, _Call] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    # What the room says.

    async def invited(self, invite: Invite) -> None:
        """Somebody calls."""
        if invite.caller != await self._chats.other_user(invite.room_id):
            return
        if any(call.invite.caller == invite.caller for call in self._by_key.values()):
            await self._decline(invite)
            return
        if len(self._by_key) >= self._most:
            await self._decline(invite)
            await self._chats.say(invite.room_id, BUSY)
            return
        call = _Call(invite, secrets.token_hex(8), secrets.token_hex(5))
        self._by_key[call.key] = self._by_media[call.media_id] = call
        await self._kept.begin(LeftCall(*call.key, call.party_id, str(invite.version)))
        if call.media_id in self._by_media:
            self._stay_awake()
            call.overdue = self._scheduler.callLater(OVERDUE, self._hung)
            self._media.send({"do": "answer", "id": call.media_id, "sdp": invite.sdp, "ice": self._ice()})

    def happened(self, room_id: str, event: Mapping[str, Any]) -> None:
        """An event of a call that may be one of ours, by anybody in the room."""
        content = event.get("content")
        if not isinstance(content, Mapping) or not isinstance(content.get("call_id"), str):
            return
        call = self._by_key.get((room_id, content["call_id"]))
        if call is None or event.get("sender") != call.invite.caller:
            return
        if signalling.is_v1(call.invite.version) and content.get("party_id") != call.invite.party_id:
            return  # another of the caller's devices
        match event.get("type"):
            case signalling.CANDIDATES:
                found = signalling.candidates_of(content)
                self._media.send({"do": "candidates", "id": call.media_id, "candidates": found})
            case signalling.NEGOTIATE:
                sdp = signalling.new_offer_of(content)
                if sdp is not None:
                    self._media.send({"do": "negotiate", "id": call.media_id, "sdp": sdp})
            case signalling.HANGUP:
                self._media.send({"do": "end", "id": call.media_id, "why": "caller"})
            case signalling.SELECT_ANSWER if content.get("selected_party_id") != call.party_id:
                self._media.send({"do": "end", "id": call.media_id, "why": "caller"})

    def left(self, room_id: str, user_id: str) -> None:
        """Somebody is not in the room any more, which ends their call."""
        for call in self._by_key.values():
            if call.invite.room_id == room_id and call.invite.caller == user_id:
                self._media.send({"do": "end", "id": call.media_id, "why": "caller"})

    def lost(self, room_id: str) -> None:
        """The echo is not in the room any more."""
        for call in self._by_key.values():
            if call.invite.room_id == room_id:
                self._media.send({"do": "end", "id": call.media_id, "why": "caller"})

    def _ice(self) -> list[dict[str, Any]]:
        if self._relays is None:
            return []
        login = self._relays.for_user(self._own, time.time())
        server = IceServer(uris=login.uris, username=login.username, password=login.password)
        return [{"uris": list(server.uris), "username": server.username, "password": server.password}]

    async def _decline(self, invite: Invite) -> None:
        v1 = signalling.is_v1(invite.version)
        content = signalling.head(invite.call_id, invite.version, secrets.token_hex(5))
        await self._chats.send(
            invite.room_id, signalling.REJECT if v1 else signalling.HANGUP, content | {"reason": "user_busy"}
        )

    # What the media process says.

    def told(self, news: Mapping[str, Any]) -> None:
        """See `media.messages`."""
        call = self._by_media.get(news.get("id", ""))
        if call is None:
            return
        match news["tell"]:
            case "answer":
                content = signalling.answer(news["sdp"])
                self._in_order(call, partial(self._send, call, signalling.ANSWER, content))
            case "negotiated":
                content = signalling.negotiation(news["sdp"])
                self._in_order(call, partial(self._send, call, signalling.NEGOTIATE, content))
            case "ended":
                report = CallReport.parse(news["report"])
                self._in_order(call, partial(self._over, call, report))

    def died(self) -> None:
        """The media process is gone, and all calls with it."""
        for call in list(self._by_media.values()):
            self._in_order(call, partial(self._over, call, stopped()))

    def _hung(self) -> None:
        logger.error("the media process hangs; it is ended, and its calls with it")
        self._media.rest()
        self.died()

    async def stop(self) -> None:
        """End every call, because the server stops or is the account no more."""
        calls = list(self._by_media.values())
        for call in calls:
            self._media.send({"do": "end", "id": call.media_id, "why": "stopped"})
        for call in calls:
            await self._in_order(call, partial(self._over, call, stopped()))
        self._stay_awake()

    async def close(self) -> None:
        """Have no call any more, nor a media process."""
        await self.stop()
        await self._media.rest()

    async def was_left(self, call: LeftCall) -> None:
        """A call that nobody ended when its process went."""
        version: object = 0 if call.version == "0" else call.version
        content = signalling.head(call.call_id, version, call.party_id)
        await self._chats.send(call.room_id, signalling.HANGUP, content | {"reason": "unknown_error"})
        await self._chats.say(call.room_id, BEGUN_ANEW)
        await self._kept.end(call.room_id, call.call_id)

    def _in_order(self, call: _Call, work: Callable[[], Coroutine[Any, Any, None]]) -> Deferred[None]:
        """Do it when what came before it in the call is done; what fails is logged."""

        async def attempt() -> None:
            try:
                await work()
            except Exception:
                logger.exception("the echo account could not go on with a call")

        return call.lock.run(lambda: Deferred.fromCoroutine(attempt()))

    async def _send(self, call: _Call, event_type: str, more: Mapping[str, Any]) -> None:
        head = signalling.head(call.invite.call_id, call.invite.version, call.party_id)
        if not await self._chats.send(call.invite.room_id, event_type, {**head, **more}):
            self._media.send({"do": "end", "id": call.media_id, "why": "unusable"})

    async def _over(self, call: _Call, report: CallReport) -> None:
        """Hang up unless the caller did, tell what there is to tell, forget it."""
        if self._by_media.pop(call.media_id, None) is None:
            return
        self._by_key.pop(call.key, None)
        if call.overdue is not None and call.overdue.active():
            call.overdue.cancel()
        if report.why != "caller":
            await self._send(call, signalling.HANGUP, {"reason": _REASONS.get(report.why, "unknown_error")})
        text = explain(report, has_relay=self._relays is not None)
        await self._chats.say(call.invite.room_id, text, **{REPORT: told_report(report)})
        await self._kept.end(*call.key)
        if not self._by_media:
            self._stay_awake()
            self._idle = self._scheduler.callLater(IDLE, self._media.rest)

    def _stay_awake(self) -> None:
        if self._idle is not None and self._idle.active():
            self._idle.cancel()


def told_report(report: CallReport) -> dict[str, Any]:
    """The report as an event can hold it: numbers of events have no fractions."""
    told = report.as_dict()
    told["duration_ms"] = round(1000 * told.pop("seconds"))
    for each in told["received"]:
        each["jitter_us"] = round(1000 * each.pop("jitter_ms"))
    return told
