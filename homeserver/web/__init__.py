# SPDX-License-Identifier: Apache-2.0
"""HTTP on Twisted: listening, parsing, routing, authentication, rate limits, errors, replies.

Owns what is the same for every endpoint. Does not own any endpoint of Matrix: those are handlers in
`homeserver.clientapi` and `federation`, each a coroutine that takes a `MatrixRequest`, calls one service and
returns a reply:

    class Typing:
        def __init__(self, typing: TypingService) -> None:
            self._typing = typing

        def routes(self) -> tuple[Route, ...]:
            return (Route("PUT", "/rooms/{room_id}/typing/{user_id}", self.put, limit="ephemeral"),)

        async def put(self, request: MatrixRequest) -> Reply:
            \"""`PUT /rooms/{roomId}/typing/{userId}`: client-server API, "Typing Notifications".\"""
            body = request.body(TypingBody)
            await self._typing.set(request.requester.user_id, request.param("room_id"), body.typing)
            return {}

`routing` says what a route is, `request` what a handler may ask, `bodies` how a body gets its types, `replies` what
may be returned, `statuses` which HTTP status an error gets.
"""
