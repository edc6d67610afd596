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


def request(authorization: str | None, auth: Auth = Auth.USER, query: bytes = b"") -> Any:
    """A request with that header and query, from `ADDRESS`."""
    fields = Fields(b"" if authorization is None else f"Authorization: {authorization}".encode())
    sender = Sender(fields, ADDRESS, ProxyTrust(), secure=False)
    route = SimpleNamespace(auth=auth)
    return SimpleNamespace(sender=sender, query=query, match=SimpleNamespace(route=route))


def test_a_user_whose_token_is_remembered_else_the_address() -> None:
    """Whoever makes tokens up stands in one line with all of his address."""
    door = doorway()
    assert door.counted_for(request("Bearer known")) == "@alice:test"
    assert door.counted_for(request("Bearer made-up")) == ADDRESS


def test_a_token_in_the_query_counts_as_one_in_the_header_does() -> None:
    """Else whoever names it there has a second share; or, behind one address with many, none."""
    door = doorway()
    assert door.counted_for(request(None, query=b"access_token=known")) == "@alice:test"
    assert door.counted_for(request("Bearer known", query=b"since=s1&access_token=kno%77n")) == "@alice:test"
    assert door.counted_for(request(None, query=b"xaccess_token=known")) == ADDRESS
    # What is refused in any case counts for nobody else.
    assert door.counted_for(request("Bearer known", query=b"access_token=made-up")) == ADDRESS
    assert door.counted_for(request(None, query=b"access_token=%FF")) == ADDRESS


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
