# SPDX-License-Identifier: Apache-2.0
"""A server with an echo account for all tests of calls, and the coturn it uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest

from tests.calls.lines import LongPollLine
from tests.calls.turnserver import Coturn, coturn
from tests.federation.certificates import CertificateAuthority
from tests.serving import Account, ServerProcess, serving

_serial = count(1)


class Town:
    """The server, and people at it."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server

    def person(self, name: str) -> Account:
        """A new account with the name and a number."""
        return self.server.register(f"{name}{next(_serial)}")

    def line(
        self, who: Account, kind: Callable[[int, str, str], LongPollLine] = LongPollLine
    ) -> LongPollLine:
        """A device of theirs."""
        return kind(self.server.port, who.user_id, who.access_token)

    def another_line(
        self, who: Account, kind: Callable[[int, str, str], LongPollLine] = LongPollLine
    ) -> LongPollLine:
        """A second device of theirs."""
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": who.user_id},
            "password": who.password,
        }
        answer = self.server.call("POST", "/_matrix/client/v3/login", body)
        assert answer.status == 200, answer.raw
        return kind(self.server.port, who.user_id, answer.body["access_token"])

    def chat(self, one: Account, other: Account) -> str:
        """A chat of two."""
        wishes = {"preset": "trusted_private_chat", "is_direct": True, "invite": [other.user_id]}
        made = self.server.call("POST", "/_matrix/client/v3/createRoom", wishes, token=one.access_token)
        assert made.status == 200, made.raw
        room_id = str(made.body["room_id"])
        path = f"/_matrix/client/v3/join/{room_id}"
        assert self.server.call("POST", path, {}, token=other.access_token).status == 200
        return room_id


@pytest.fixture(scope="session")
def turn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coturn]:
    """A coturn, with TLS, that shares its secret with the server."""
    directory = tmp_path_factory.mktemp("coturn")
    authority = CertificateAuthority(directory / "authority")
    leaf = authority.issue("localhost", "127.0.0.1")
    with coturn(
        directory,
        certificate=leaf.certificate,
        private_key=leaf.private_key,
        ca_file=authority.ca_file,
    ) as running:
        yield running


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory, turn: Coturn) -> Iterator[Town]:
    """One server for all tests; its log must hold no traceback at the end."""
    settings = {"calls": {"echo_user": "echo", "silence": "12s"}, "turn": turn.settings}
    with serving(tmp_path_factory.mktemp("calls"), settings=settings) as server:
        yield Town(server)
    assert "Traceback (most recent call last)" not in server.log(), server.log()[-12_000:]
