# SPDX-License-Identifier: Apache-2.0
"""`PUT /_matrix/federation/v1/send/{txnId}` over real HTTP, signed, with keys fetched from who has them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from twisted.web import http

from federation.serving.send import SendEndpoint
from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import room_version
from storage.database import Database
from tests.federation.inbound.forging import resigned
from tests.federation.inbound.in_memory import Inbound
from tests.federation.keys.world import DAY, US, World
from tests.federation.servers import RemoteServer, make_key
from tests.federation.site import FederationSite
from tests.reactor import run

ROOM, OLD_ROOM = "!room:hydra.test", "!old:hydra.test"


@pytest.fixture
def hydra() -> RemoteServer:
    return RemoteServer("hydra.test")


@pytest.fixture
def world(database: Database, hydra: RemoteServer) -> World:
    return World(database, hydra)


@pytest.fixture
def inbound(database: Database, world: World) -> Inbound:
    inbound = Inbound(database, verifier=world.keyring)
    inbound.intake.room(ROOM, "11")
    inbound.intake.room(OLD_ROOM, "5")
    return inbound


@pytest.fixture
def site(world: World, inbound: Inbound) -> Iterator[FederationSite]:
    site = FederationSite(world, tuple(SendEndpoint(inbound.transactions).routes()))
    yield site
    run(site.stop())


def body(hydra: RemoteServer, *pdus: Any, **more: Any) -> dict[str, Any]:
    return {"origin": hydra.name, "origin_server_ts": 1, "pdus": list(pdus), **more}


async def test_a_transaction_over_http(site: FederationSite, hydra: RemoteServer, inbound: Inbound) -> None:
    """Its answer names each event; its id may hold anything."""
    event = hydra.pdu(version="11", room_id=ROOM).event
    for txn_id in ("1", "a%2Fb%20c", "%24%C3%BC"):
        target = f"/_matrix/federation/v1/send/{txn_id}"
        answer = await site.signed(hydra, "PUT", target, body(hydra, event.pdu))
        assert (answer.status, answer.json) == (200, {"pdus": {event.event_id: {}}})
    assert event.event_id in inbound.intake.flags


async def test_a_transaction_counts_for_the_address_it_came_from(
    site: FederationSite, hydra: RemoteServer, inbound: Inbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may have as many names as it likes."""
    counted: list[str] = []
    receive = inbound.transactions.receive

    async def counting(origin: str, txn_id: str, body: Mapping[str, Any], *, address: str) -> bytes:
        counted.append(address)
        return await receive(origin, txn_id, body, address=address)

    monkeypatch.setattr(inbound.transactions, "receive", counting)
    answer = await site.signed(hydra, "PUT", "/_matrix/federation/v1/send/1", body(hydra))
    assert (answer.status, counted) == (200, ["127.0.0.1"])


async def test_advisory_22_a_form_is_no_transaction(
    site: FederationSite, hydra: RemoteServer, inbound: Inbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2024-52805: whatever its type, a body is JSON or nothing; parts are not looked for, signed or not."""

    def parsed(*_: object) -> None:
        raise AssertionError("a form was parsed")

    monkeypatch.setattr(http, "_getMultiPartArgs", parsed)
    target = "/_matrix/federation/v1/send/form"
    signed = hydra.authorization(US, "PUT", target, {})
    field = b'--x\r\nContent-Disposition: form-data; name="pdus"\r\n\r\n[]\r\n'
    for authorization in ({}, {"Authorization": signed}):
        headers = {"Content-Type": "multipart/form-data; boundary=x", **authorization}
        answer = await site.request("PUT", target, body=field * 1000 + b"--x--\r\n", headers=headers)
        expected = (400, "M_NOT_JSON") if authorization else (401, "M_UNAUTHORIZED")
        assert (answer.status, answer.errcode) == expected
    assert inbound.intake.received == []


async def test_who_does_not_sign_is_not_heard(
    site: FederationSite, hydra: RemoteServer, inbound: Inbound
) -> None:
    """Nor who signs as one and speaks as another."""
    event = hydra.pdu(version="11", room_id=ROOM).event
    target = "/_matrix/federation/v1/send/1"
    raw = json.dumps(body(hydra, event.pdu)).encode()
    assert (await site.request("PUT", target, body=raw)).status == 401
    other = RemoteServer("hydra.test", key=make_key("another"))
    assert (await site.signed(other, "PUT", target, body(hydra, event.pdu))).status == 401
    answer = await site.signed(hydra, "PUT", target, {**body(hydra, event.pdu), "origin": "evil.test"})
    assert (answer.status, answer.json["errcode"]) == (403, "M_FORBIDDEN")
    assert inbound.intake.received == []


@pytest.mark.parametrize("wrong", [{"pdus": [{}] * 51}, {"edus": [{}] * 101}, {"pdus": 1}, {"origin": 1}])
async def test_a_transaction_that_breaks_the_rules_is_400(
    site: FederationSite, hydra: RemoteServer, wrong: dict[str, Any]
) -> None:
    target = "/_matrix/federation/v1/send/1"
    assert (await site.signed(hydra, "PUT", target, {**body(hydra), **wrong})).status == 400


async def test_advisory_05_a_body_that_is_no_json_is_400(site: FederationSite, hydra: RemoteServer) -> None:
    """NaN and infinities are none."""
    for number in (b"NaN", b"Infinity", b"-Infinity"):
        raw = b'{"origin":"hydra.test","pdus":[],"edus":[%s]}' % number
        answer = await site.signed(hydra, "PUT", "/_matrix/federation/v1/send/1", {}, raw=raw)
        assert answer.status == 400


@pytest.mark.parametrize("value", [b"[]", b"{}", b"1", b'{"":1}', b'""', b'"\\\\"', b'","'])
async def test_a_body_of_nothing_but_tiny_values_is_400(
    site: FederationSite, hydra: RemoteServer, value: bytes
) -> None:
    """It would be forty times as large in memory."""
    values = b",".join([value] * 500_000)
    raw = b'{"edus":[{"content":{"x":[%s]},"edu_type":"m.x"}],"origin":"hydra.test","pdus":[]}' % values
    answer = await site.signed(hydra, "PUT", "/_matrix/federation/v1/send/1", {}, raw=raw)
    assert (answer.status, answer.json["errcode"]) == (400, "M_BAD_JSON")


async def test_texts_may_be_full_of_whatever_they_like(
    site: FederationSite, hydra: RemoteServer, inbound: Inbound
) -> None:
    """They are one value each."""
    text = ',[{\\"\n\\' * 5_500
    events = [hydra.pdu(version="11", room_id=ROOM, content={"body": text, "n": n}).event for n in range(20)]
    content = body(hydra, *(event.pdu for event in events))
    answer = await site.signed(hydra, "PUT", "/_matrix/federation/v1/send/1", content)
    assert answer.json == {"pdus": {event.event_id: {} for event in events}}


async def test_advisory_26_an_impossible_number_stops_nothing_but_its_event(
    site: FederationSite, hydra: RemoteServer, inbound: Inbound
) -> None:
    """Whatever JSON can write: the rest of the transaction is taken, and the server goes on to its next."""
    good = [hydra.pdu(version="11", room_id=ROOM, content={"n": number}).event for number in range(3)]
    first = hydra.pdu(version="5", room_id=OLD_ROOM).event
    old = Event.from_pdu(resigned({**first.pdu, "content": {"n": 2**60}}, "5", hydra), room_version("5"))
    bad = [{**good[0].pdu, "depth": depth} for depth in (2**53, 2**63, 2**64, 10**300, -1, 1.5)]
    wide = {**old.pdu, "content": {"n": 2**70}}
    content = body(hydra, good[0].pdu, *bad, good[1].pdu, wide, old.pdu, good[2].pdu)
    answer = await site.signed(
        hydra, "PUT", "/_matrix/federation/v1/send/1", content, raw=encode_canonical(content, strict=False)
    )
    assert answer.status == 200
    for event in (*good, old):
        assert answer.json["pdus"][event.event_id] == {}
        assert event.event_id in inbound.intake.flags


async def test_advisory_25_an_event_signed_with_an_expired_key(
    site: FederationSite, hydra: RemoteServer, world: World
) -> None:
    """Counts if it was made while the key was in use; a later one does not, in rooms that care (version 5 on)."""
    old_key, expired = hydra.key, world.clock.now - 2 * DAY
    before = hydra.pdu(version="11", room_id=ROOM, origin_server_ts=expired - 1).event
    after = hydra.pdu(version="11", room_id=ROOM, origin_server_ts=expired + 1).event
    hydra.key = make_key("new", "ed25519:new")
    hydra.old_keys[old_key.key_id] = (old_key.verify_key, expired)
    answer = await site.signed(
        hydra, "PUT", "/_matrix/federation/v1/send/1", body(hydra, before.pdu, after.pdu)
    )
    assert answer.status == 200
    assert answer.json["pdus"][before.event_id] == {}
    assert "error" in answer.json["pdus"][after.event_id]


async def test_the_largest_transaction_fits(
    site: FederationSite, hydra: RemoteServer, inbound: Inbound
) -> None:
    """Fifty events, each as large as events may be."""
    events = [
        hydra.pdu(version="11", room_id=ROOM, content={"body": "x" * 65000, "n": number}).event
        for number in range(50)
    ]
    answer = await site.signed(
        hydra, "PUT", "/_matrix/federation/v1/send/1", body(hydra, *(event.pdu for event in events))
    )
    assert answer.json == {"pdus": {event.event_id: {} for event in events}}
