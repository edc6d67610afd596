# SPDX-License-Identifier: Apache-2.0
"""`PUT /_matrix/federation/v1/send/{txnId}`: what other servers have to tell (server-server API, "Transactions")."""

from __future__ import annotations

from federation.inbound.transactions import InboundTransactions
from homeserver.web.replies import JsonBytes, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, Auth, Route

_MAX_BODY = 12 << 20
"""Bytes: fifty events and a hundred EDUs of 64 KiB each, and some."""


class SendEndpoint:
    """See the module."""

    def __init__(self, transactions: InboundTransactions) -> None:
        self._transactions = transactions

    def routes(self) -> list[Route]:
        """To be mounted."""
        return [
            Route(
                "PUT",
                "/send/{txn_id}",
                self.send,
                under=FEDERATION_V1,
                auth=Auth.SERVER,
                resource="federation",
                limit="server_transactions",
                max_body=_MAX_BODY,
                trailing_slash=True,
            )
        ]

    async def send(self, request: MatrixRequest) -> Reply:
        """Answer with what became of each event."""
        body = request.json_object()
        return JsonBytes(
            await self._transactions.receive(
                request.origin, request.param("txn_id"), body, address=request.counted_as
            )
        )
