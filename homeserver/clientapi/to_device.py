# SPDX-License-Identifier: Apache-2.0
"""Messages to devices. Client-server API, "Send-to-Device messaging"."""

from __future__ import annotations

from homeserver.devices.messages import Messages, ToDevice
from homeserver.errors import BadJson, InvalidParam
from homeserver.protocol.identifiers import is_valid_user_id
from homeserver.rooms.engine import SendTransaction
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route

_MAX_BODY = 8 * 1024 * 1024
"""Bytes: room keys for some thousand devices."""


class ToDeviceEndpoints:
    """`/sendToDevice/{eventType}/{txnId}`."""

    def __init__(self, to_device: ToDevice) -> None:
        self._to_device = to_device

    def routes(self) -> tuple[Route, ...]:
        template = "/sendToDevice/{event_type}/{txn_id}"
        return (Route("PUT", template, self.send, auth=Auth.GUEST_OK, max_body=_MAX_BODY),)

    async def send(self, request: MatrixRequest) -> Reply:
        """`PUT /sendToDevice/{eventType}/{txnId}`."""
        requester, event_type = request.requester, request.param("event_type")
        transaction = SendTransaction(
            requester.user_id,
            requester.device_id or requester.user_id,
            f"sendToDevice/{event_type}",
            request.param("txn_id"),
        )
        # Not held here as well: only who sends them knows how long they are needed.
        await self._to_device.send(requester.user_id, event_type, _messages_of(request), transaction.key)
        return {}


def _messages_of(request: MatrixRequest) -> Messages:
    """User → device → content. Raises BadJson and InvalidParam."""
    messages = request.json_object().get("messages")
    if type(messages) is not dict:
        raise BadJson("messages must be an object")
    for user_id, devices in messages.items():
        if not is_valid_user_id(user_id):
            raise InvalidParam("Messages are sent by user id")
        if type(devices) is not dict:
            raise BadJson("messages must map user ids to device ids to contents")
    return messages
