# SPDX-License-Identifier: Apache-2.0
"""What clients need for calls beyond room events. Client-server API, "Voice over IP"."""

from collections.abc import Callable

from homeserver.calls.turn import TurnCredentials
from homeserver.errors import NotFound
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route


class VoipEndpoints:
    """`/voip/turnServer`."""

    def __init__(
        self, turn: TurnCredentials | None, *, allow_guests: bool, clock: Callable[[], float]
    ) -> None:
        """`clock` gives seconds since 1970."""
        self._turn = turn
        # Guests are refused with 403, upon which clients stop asking.
        self._auth = Auth.GUEST_OK if allow_guests else Auth.USER
        self._clock = clock

    def routes(self) -> tuple[Route, ...]:
        return (Route("GET", "/voip/turnServer", self.turn_server, auth=self._auth),)

    async def turn_server(self, request: MatrixRequest) -> Reply:
        """`GET /voip/turnServer`.

        The specification names no answer for a server without TURN, but requires every field of the one there is; so
        M_NOT_FOUND, as MSC4166 has it.
        """
        if self._turn is None:
            raise NotFound("This server has no TURN server")
        login = self._turn.for_user(request.requester.user_id, self._clock())
        return {
            "username": login.username,
            "password": login.password,
            "uris": login.uris,
            "ttl": login.ttl,
        }
