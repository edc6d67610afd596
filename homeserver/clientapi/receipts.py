# SPDX-License-Identifier: Apache-2.0
"""Receipts and read markers. Client-server API, "Receipts", "Fully read markers"."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import field

from homeserver.errors import InvalidParam
from homeserver.receipts.service import KINDS, Marks, Receipts
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Route


class ReadMarkersBody(Struct, frozen=True):
    """`POST /rooms/{roomId}/read_markers`."""

    fully_read: str | None = field(name="m.fully_read", default=None)
    read: str | None = field(name="m.read", default=None)
    private: str | None = field(name="m.read.private", default=None)


class ReceiptEndpoints:
    """`/rooms/{roomId}/receipt/…`, `/rooms/{roomId}/read_markers`."""

    def __init__(self, receipts: Receipts, active: Callable[[str], None]) -> None:
        """`active` is told who does something."""
        self._receipts = receipts
        self._active = active

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("POST", "/rooms/{room_id}/receipt/{kind}/{event_id}", self.send, limit="ephemeral"),
            Route("POST", "/rooms/{room_id}/read_markers", self.mark, limit="ephemeral"),
        )

    async def send(self, request: MatrixRequest) -> Reply:
        """`POST /rooms/{roomId}/receipt/{receiptType}/{eventId}`."""
        kind = next((each for each in KINDS if each == request.param("kind")), None)
        if kind is None:
            raise InvalidParam(f"The receipt type must be one of {', '.join(KINDS)}")
        body = request.json_object(empty_ok=True)
        thread = body.get("thread_id")
        if "thread_id" in body and not isinstance(thread, str):
            raise InvalidParam("thread_id field must be a non-empty string")
        user_id = request.requester.user_id
        await self._receipts.send(user_id, request.param("room_id"), kind, request.param("event_id"), thread)
        self._active(user_id)
        return {}

    async def mark(self, request: MatrixRequest) -> Reply:
        """`POST /rooms/{roomId}/read_markers`."""
        body = request.body(ReadMarkersBody)
        user_id = request.requester.user_id
        marks = Marks(read=body.read, private=body.private, fully_read=body.fully_read)
        await self._receipts.mark(user_id, request.param("room_id"), marks)
        self._active(user_id)
        return {}
