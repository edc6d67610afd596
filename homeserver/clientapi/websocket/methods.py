# SPDX-License-Identifier: Apache-2.0
"""What a client may ask for over WebSocket: the same services as over HTTP, under the same rules and limits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from homeserver.clientapi.sync import sync_token
from homeserver.clientapi.websocket.frames import Call
from homeserver.errors import BadJson, GuestAccessForbidden, InvalidParam
from homeserver.presence.service import Presence
from homeserver.receipts.service import Marks, Receipts
from homeserver.rooms.engine import SendTransaction
from homeserver.rooms.sending.messages import Sending
from homeserver.rooms.sending.state import SettingState
from homeserver.sync.providers import Extension
from homeserver.typing.service import DEFAULT_TIMEOUT, Typing
from homeserver.web.admission import Admission
from homeserver.web.authentication import Requester
from homeserver.web.bodies import Struct, convert
from homeserver.web.rate_limits import RateLimits


class SendParams(Struct, frozen=True):
    """Of `send`."""

    room_id: str
    event_type: str
    content: dict[str, Any]


class StateParams(SendParams, frozen=True):
    """Of `state`."""

    state_key: str = ""


class TypingParams(Struct, frozen=True):
    """Of `typing`."""

    room_id: str
    typing: bool
    timeout: int | None = None


class MarkersParams(Struct, frozen=True):
    """Of `read_markers`."""

    room_id: str
    fully_read: str | None = msgspec.field(name="m.fully_read", default=None)
    read: str | None = msgspec.field(name="m.read", default=None)
    private: str | None = msgspec.field(name="m.read.private", default=None)


class PresenceParams(Struct, frozen=True):
    """Of `presence`."""

    presence: str
    status_msg: str | msgspec.UnsetType | None = msgspec.UNSET


class AckParams(Struct, frozen=True):
    """Of `ack`."""

    since: str


Result = Mapping[str, Any]
Handler = Callable[[Requester, Call], Awaitable[Result]]


class _Method(msgspec.Struct, frozen=True):
    handler: Handler
    limit: str
    """The class of `rate_limits` it counts under, as its HTTP counterpart does."""
    guests: bool


_DONE: Final[Result] = {}
_FREE: Final = frozenset({"reads"})
"""Classes of what takes no turn under overload, as it costs less than to wait."""


class MethodServices(msgspec.Struct, frozen=True, kw_only=True):
    """What the methods call."""

    sending: Sending
    setting_state: SettingState
    typing: Typing
    receipts: Receipts
    presence: Presence
    extensions: Sequence[Extension] = ()


class Methods:
    """The table of methods. One per process."""

    def __init__(self, services: MethodServices, limits: RateLimits, turns: Admission | None = None) -> None:
        """`turns`: who may go on when there is too much to do; None: everybody."""
        self._services = services
        self._limits = limits
        self._turns = turns
        self._methods: dict[str, _Method] = {
            "ping": _Method(self._ping, "reads", True),
            "send": _Method(self._send, "messages", True),
            "state": _Method(self._state, "messages", True),
            "typing": _Method(self._typing, "ephemeral", False),
            "read_markers": _Method(self._read_markers, "ephemeral", False),
            "presence": _Method(self._presence, "ephemeral", False),
            "ack": _Method(self._ack, "reads", True),
        }

    async def call(self, requester: Requester, call: Call) -> Result:
        """The result of a call. Raises what is answered as an error."""
        method = self._methods.get(call.method)
        if method is None:
            raise BadJson("There is no such method")
        if requester.is_guest and not method.guests:
            raise GuestAccessForbidden
        if requester.rate_limited:
            self._limits.check(method.limit, requester.user_id)
        if self._turns is None or not self._turns.busy or method.limit in _FREE:
            return await method.handler(requester, call)
        room_id = call.params.get("room_id")
        entry = await self._turns.turn(requester.user_id, room_id if type(room_id) is str else None)
        try:
            return await method.handler(requester, call)
        finally:
            if entry is not None:
                self._turns.done(entry)

    async def _ping(self, _requester: Requester, _call: Call) -> Result:
        return _DONE

    async def _send(self, requester: Requester, call: Call) -> Result:
        params = _params(call, SendParams)
        # The scope of the HTTP endpoint, so that a client may repeat over either what it sent over the other.
        transaction = SendTransaction(
            requester.user_id,
            requester.device_id or requester.user_id,
            f"send/{params.room_id}/{params.event_type}",
            call.id,
        )
        event_id = await self._services.sending.send(
            requester, params.room_id, params.event_type, params.content, transaction
        )
        self._services.presence.active(requester.user_id)
        return {"event_id": event_id}

    async def _state(self, requester: Requester, call: Call) -> Result:
        params = _params(call, StateParams)
        event_id = await self._services.setting_state.set_state(
            requester, params.room_id, params.event_type, params.state_key, params.content
        )
        self._services.presence.active(requester.user_id)
        return {"event_id": event_id}

    async def _typing(self, requester: Requester, call: Call) -> Result:
        params = _params(call, TypingParams)
        user_id = requester.user_id
        timeout = DEFAULT_TIMEOUT if params.timeout is None else params.timeout
        await self._services.typing.set(
            user_id, user_id, params.room_id, typing=params.typing, timeout_ms=timeout
        )
        if params.typing:
            self._services.presence.active(user_id)
        return _DONE

    async def _read_markers(self, requester: Requester, call: Call) -> Result:
        params = _params(call, MarkersParams)
        marks = Marks(read=params.read, private=params.private, fully_read=params.fully_read)
        if marks == Marks():
            raise BadJson("One of m.fully_read, m.read and m.read.private is needed")
        await self._services.receipts.mark(requester.user_id, params.room_id, marks)
        self._services.presence.active(requester.user_id)
        return _DONE

    async def _presence(self, requester: Requester, call: Call) -> Result:
        params = _params(call, PresenceParams)
        unset = isinstance(params.status_msg, msgspec.UnsetType)
        await self._services.presence.put(
            requester.user_id,
            requester.user_id,
            requester.device_id,
            params.presence,
            None if isinstance(params.status_msg, msgspec.UnsetType) else params.status_msg,
            keep_status=unset,
        )
        return _DONE

    async def _ack(self, requester: Requester, call: Call) -> Result:
        token = sync_token(_params(call, AckParams).since)
        for extension in self._services.extensions:
            await extension.acknowledge(requester.user_id, requester.device_id, token)
        return _DONE


def _params(call: Call, kind: type[Any]) -> Any:
    """The params as what they should be. Raises BadJson, and InvalidParam for NUL in a name."""
    params = convert(call.params, kind)
    for name in (
        "room_id",
        "event_type",
        "state_key",
        "m.fully_read",
        "m.read",
        "m.read.private",
        "status_msg",
    ):
        value = call.params.get(name)
        if isinstance(value, str) and "\0" in value:
            raise InvalidParam(f"{name} contains NUL")
    if "\0" in call.id:
        raise InvalidParam("id contains NUL")
    return params
