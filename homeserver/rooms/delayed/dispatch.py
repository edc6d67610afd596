# SPDX-License-Identifier: Apache-2.0
"""Sending what was to be sent later, as its sender could send it now, and once.

Once, because it goes out under a transaction named by its delay id: who sends it again, another process or this one
after a crash, gets the event that stands. Memberships have no transactions (a join may be another server's to make):
of one that was being sent when a process died nobody knows whether it was, and so it is given up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from msgspec import Struct

from homeserver.errors import Forbidden, MatrixError, Unknown, UserLocked
from homeserver.events.rendering import DELAYED
from homeserver.needs import Protocol
from homeserver.protocol.errors import ProtocolError
from homeserver.rooms.actor import Actor
from homeserver.rooms.engine import SendTransaction
from storage.delayed_events import DelayedEvent
from storage.users import User

MEMBER: Final = "m.room.member"
UNSTABLE: Final = "org.matrix.msc4140."


class Sending(Protocol):
    """Sends messages and redactions; `rooms.sending.messages.Sending` is one."""

    async def send(
        self,
        actor: Actor,
        room_id: str,
        event_type: str,
        content: Mapping[str, Any],
        transaction: SendTransaction | None = None,
    ) -> str: ...


class SettingState(Protocol):
    """Sends state; `rooms.sending.state.SettingState` is one."""

    async def set_state(
        self,
        actor: Actor,
        room_id: str,
        event_type: str,
        state_key: str,
        content: Mapping[str, Any],
        *,
        transaction: SendTransaction | None = None,
    ) -> str: ...


class Users(Protocol):
    """The accounts; `storage.users.UserStore` is one."""

    async def get_all(self, user_ids: Sequence[str]) -> Mapping[str, User]: ...


class GivenUp(Unknown):
    """It is not to be sent at any time."""


class _Sender(Struct, frozen=True):
    """The sender with the standing they have now."""

    user_id: str
    is_guest: bool
    is_admin: bool
    is_suspended: bool


class Dispatch:
    """Sends one."""

    def __init__(self, *, sending: Sending, setting_state: SettingState, users: Users) -> None:
        self._sending = sending
        self._setting_state = setting_state
        self._users = users

    async def send(self, event: DelayedEvent, overtaken: bool) -> str:
        """Send it; the event id. `overtaken`: another user has set that state since it was scheduled.

        Raises GivenUp, and MatrixError and ProtocolError if it can't be sent, as a request of the sender's would now.
        """
        if overtaken:
            raise cancelled_by_state()
        if event.type == MEMBER and event.state_key is not None and event.attempts > 1:
            raise GivenUp("The server stopped while the membership was changed; whether it was is not known")
        sender = await self._sender(event.user_id)
        content = orjson.loads(event.content)
        transaction = SendTransaction(event.user_id, DELAYED, "delayed", event.delay_id)
        if event.state_key is None:
            return await self._sending.send(sender, event.room_id, event.type, content, transaction)
        return await self._setting_state.set_state(
            sender, event.room_id, event.type, event.state_key, content, transaction=transaction
        )

    async def _sender(self, user_id: str) -> _Sender:
        user = (await self._users.get_all((user_id,))).get(user_id)
        if user is None or user.deactivated:
            raise Forbidden("The sender has no account any more")
        if user.locked:
            raise UserLocked
        return _Sender(user_id, user.guest, user.admin, user.suspended)


def cancelled_by_state() -> GivenUp:
    """Somebody else has changed what a delayed state event would have changed."""
    return GivenUp(
        "The delayed event was not sent because a different user has set the same state since",
        **{UNSTABLE + "errcode": "M_CANCELLED_BY_STATE_UPDATE"},
    )


def error_object(error: Exception) -> str:
    """The standard error response that says why, as JSON; of failures of the server's own it says no more than that."""
    if isinstance(error, ProtocolError):
        told: dict[str, object] = {"errcode": error.errcode, "error": str(error)}
    elif isinstance(error, MatrixError) and type(error) is not MatrixError:
        told = error.as_dict()
    else:
        told = MatrixError().as_dict()
    return orjson.dumps(told).decode()
