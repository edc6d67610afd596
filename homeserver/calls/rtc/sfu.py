# SPDX-License-Identifier: Apache-2.0
"""What this server asks of LiveKit's room service (Twirp over HTTP, in JSON).

Owns the requests and what their failures mean. An administrator wrote LiveKit's address down, so unlike other servers'
it may be one of a private network.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

import orjson

from homeserver.calls.rtc.tokens import LiveKitTokens
from homeserver.errors import RemoteServerFailed
from homeserver.outgoing import AddressPolicy, Caps, OutgoingClient, OutgoingError, OutgoingResponse

logger = logging.getLogger(__name__)

EMPTY_TIMEOUT: Final = 300
"""Seconds that a room waits for the first to come."""
DEPARTURE_TIMEOUT: Final = 20
"""Seconds that it waits for somebody to come back after the last has gone."""
_CAPS: Final = Caps(max_size=1 << 16, timeout=10.0)
_MOST_LOGGED: Final = 300


class LiveKitRooms:
    """LiveKit's rooms. `url` is http or https."""

    def __init__(self, *, http: OutgoingClient, url: str, tokens: LiveKitTokens) -> None:
        self._http = http
        self._url = url.rstrip("/")
        self._tokens = tokens
        # One object, since connections are shared by policies' identity.
        self._policy = AddressPolicy()

    async def make(self, room: str) -> None:
        """See that a room is there. Raises RemoteServerFailed."""
        asked = {
            "name": room,
            "empty_timeout": EMPTY_TIMEOUT,
            "departure_timeout": DEPARTURE_TIMEOUT,
        }
        answer = await self._call("CreateRoom", self._tokens.making_rooms(), asked)
        if answer.status != 200:
            raise self._failed("CreateRoom", answer)

    async def holds(self, room: str, identity: str) -> bool:
        """Whether a participant is connected. Raises RemoteServerFailed where that cannot be told."""
        asked = {"room": room, "identity": identity}
        answer = await self._call("GetParticipant", self._tokens.watching(room), asked)
        if answer.status == 404:
            return False
        if answer.status != 200:
            raise self._failed("GetParticipant", answer)
        return True

    async def remove(self, room: str, identity: str) -> bool:
        """End a participant's connection; False if there is none. Raises RemoteServerFailed."""
        asked = {"room": room, "identity": identity}
        answer = await self._call("RemoveParticipant", self._tokens.watching(room), asked)
        if answer.status == 404:
            return False
        if answer.status != 200:
            raise self._failed("RemoveParticipant", answer)
        return True

    async def _call(self, method: str, token: str, asked: Mapping[str, object]) -> OutgoingResponse:
        try:
            return await self._http.fetch(
                f"{self._url}/twirp/livekit.RoomService/{method}",
                method="POST",
                headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
                body=orjson.dumps(asked),
                caps=_CAPS,
                purpose="livekit",
                policy=self._policy,
            )
        except OutgoingError as error:
            logger.warning("LiveKit is not reached at %s: %s", self._url, error)
            raise RemoteServerFailed("The server for group calls could not be reached") from error

    def _failed(self, method: str, answer: OutgoingResponse) -> RemoteServerFailed:
        said = answer.body[:_MOST_LOGGED].decode("utf-8", "replace")
        logger.warning("LiveKit at %s refused %s: %d %s", self._url, method, answer.status, said)
        return RemoteServerFailed("The server for group calls refused")
