# SPDX-License-Identifier: Apache-2.0
"""Asking several processes in turn."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from tests.serving import Account, Answer, ServerProcess

CLIENT = "/_matrix/client/v3"


class Processes:
    """Servers that are asked in turn, each on a connection of its own."""

    def __init__(self, *servers: ServerProcess) -> None:
        self.servers = servers
        self._turns = itertools.cycle(servers)
        self.names = itertools.count()

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        return next(self._turns).call(method, path, body, token=token, query=query)

    def do(self, method: str, path: str, body: object = None, **how: Any) -> Any:
        """As `ask`; the body of what must succeed."""
        answer = self.ask(method, path, body, **how)
        assert answer.status == 200, (method, path, answer.raw)
        return answer.body

    def user(self) -> Account:
        return next(self._turns).register(f"user{next(self.names)}")

    def room(self, user: Account, **more: Any) -> str:
        made = self.do(
            "POST", f"{CLIENT}/createRoom", {"preset": "public_chat", **more}, token=user.access_token
        )
        return str(made["room_id"])
