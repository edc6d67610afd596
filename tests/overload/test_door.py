# SPDX-License-Identifier: Apache-2.0
"""Whom a request counts for before it is known who sent it."""

from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock

from homeserver.web.addresses import ProxyTrust
from homeserver.web.admission import Admission
from homeserver.web.door import MOST_PROVEN, Doorway
from homeserver.web.heads import Fields
from homeserver.web.routing import Auth
from homeserver.web.senders import Sender

ADDRESS = "192.0.2.7"


def doorway() -> Doorway:
    """Of a server that remembers one token."""
    admission = Admission(Clock(), remembered={"known": "@alice:test"}.get)

    def sender(exchange: Any) -> Sender:
        found: Sender = exchange.sender
        return found

    return Doorway(admission, sender, lambda *_: None, lambda *_: None)


def request(authorization: str, auth: Auth = Auth.USER) -> Any:
    """A request with that header, from `ADDRESS`."""
    fields = Fields(f"Authorization: {authorization}".encode())
    sender = Sender(fields, ADDRESS, ProxyTrust(), secure=False)
    return SimpleNamespace(sender=sender, match=SimpleNamespace(route=SimpleNamespace(auth=auth)))


def test_a_user_whose_token_is_remembered_else_the_address() -> None:
    """Whoever makes tokens up stands in one line with all of his address."""
    door = doorway()
    assert door.counted_for(request("Bearer known")) == "@alice:test"
    assert door.counted_for(request("Bearer made-up")) == ADDRESS


def test_a_server_that_has_proved_its_name_from_there_else_the_address() -> None:
    """A name that is only claimed takes nobody's turn; proofs are remembered within a bound."""
    door = doorway()
    signed = 'X-Matrix origin="good.test",destination="here.test",key="ed25519:a",sig="…"'
    assert door.counted_for(request(signed, Auth.SERVER)) == ADDRESS
    door.proved("192.0.2.8", "good.test")
    assert door.counted_for(request(signed, Auth.SERVER)) == ADDRESS
    door.proved(ADDRESS, "good.test")
    assert door.counted_for(request(signed, Auth.SERVER)) == "good.test"
    assert door.counted_for(request(signed.replace("good", "other"), Auth.SERVER)) == ADDRESS
    for number in range(MOST_PROVEN):
        door.proved(ADDRESS, f"{number}.test")
    assert door.counted_for(request(signed, Auth.SERVER)) == ADDRESS
