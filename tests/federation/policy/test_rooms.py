# SPDX-License-Identifier: Apache-2.0
"""Rooms with a policy server, between server processes: who is heard, who is not, and what senders are told."""

from __future__ import annotations

from copy import copy
from typing import Any

import pytest

from homeserver.protocol.policy_servers import with_recommendation
from homeserver.protocol.signing import POLICY_KEY_ID
from tests.federation.hostile.battlefield import OurRoom, unseen
from tests.federation.hostile.hostile_server import V1, V2, segment
from tests.federation.policy.conftest import Field, Guard, Raise
from tests.federation.servers import Received
from tests.interop.federation.people import Person, Refused
from tests.rooms.policy_fixture import signature


@pytest.fixture
def room(alice: Person, guard: Guard) -> OurRoom:
    """Alice's, which uses the policy server; two users of that are in it."""
    room = OurRoom(alice, guard.server)
    alice.set_state(room.id, "m.room.policy", guard.content)
    assert guard.asked == [], "neither before it was chosen nor about being chosen"
    return room


def told(refused: Any) -> tuple[int, str]:
    """Status and error code."""
    return refused.value.status, refused.value.errcode


def test_between_two_servers_that_ask(
    field_of_servers: Field, room: OurRoom, alice: Person, berta: Person, guard: Guard
) -> None:
    """What is signed is heard everywhere, and nobody asks again; what is refused is told as it was said."""
    here, there = field_of_servers.here.server_name, field_of_servers.there.server_name
    berta.join(room.id, here)
    joins = [(who, pdu["state_key"]) for who, pdu in guard.asked if pdu["type"] == "m.room.member"]
    assert joins == [(here, berta.user_id)], "the server that let her in asked"
    alice.say(room.id, "hello")
    berta.hears(room.id, "hello")
    berta.say(room.id, "hi there")
    alice.hears(room.id, "hi there")
    for heard in ("hello", "hi there"):  # of two servers: either may come first
        guard.server.hears(heard)
    # Each by its own server alone; twice if the room moved meanwhile and the event was built anew.
    assert set(guard.askers("hello")) == {here} and set(guard.askers("hi there")) == {there}
    assert guard.recommended("hello") and guard.recommended("hi there")
    for person in (alice, berta):
        with pytest.raises(Refused, match="The message appears to be spam") as refused:
            person.say(room.id, "spam")
        assert told(refused) == (400, "ORG.EXAMPLE.SPAM")
        with pytest.raises(Refused) as refused:
            person.membership(room.id, "leave", reason="all this spam")
        assert told(refused) == (400, "ORG.EXAMPLE.SPAM")
        unseen(room, person, "spam")
    with pytest.raises(Refused) as refused:
        alice.set_state(room.id, "m.room.topic", {"topic": "spam"})
    assert told(refused) == (400, "ORG.EXAMPLE.SPAM")
    alice.redact(room.id, alice.say(room.id, "never mind"))
    assert [pdu["type"] for _, pdu in guard.asked][-1] == "m.room.redaction"


def test_a_server_that_does_not_ask(room: OurRoom, alice: Person, guard: Guard, rising: Raise) -> None:
    """It is heard as far as the policy server signs when asked from here; what it forges is worth nothing."""
    careless = rising()
    theirs = OurRoom(alice, careless, visited=room.id)
    good = theirs.send("m.room.message", {"body": "hello all"}, sender=careless.mallory)
    spam = theirs.send("m.room.message", {"body": "buy this spam"}, sender=careless.mallory)
    assert careless.send(good, spam) == {good.event.event_id: {}, spam.event.event_id: {}}
    event = theirs.send("m.room.message", {"body": "signed spam"}, sender=careless.mallory).event
    forged = with_recommendation(event, guard.server.name, signature(event, careless.key))
    assert careless.send(forged) == {event.event_id: {}}
    alice.hears(room.id, "hello all")
    theirs.goes_on()
    unseen(theirs, alice, "buy this spam", "signed spam")
    here = alice.server.server_name
    assert guard.askers("buy this spam") == [here] and guard.askers("signed spam") == [here]
    careless.send(spam)
    assert len(guard.askers("buy this spam")) == 1, "it is not asked about what is known"
    answer = alice.say(room.id, "nothing stands on it")
    careless.hears("nothing stands on it")
    (sent,) = [
        pdu for pdu in careless.signed_by(here) if pdu["content"].get("body") == "nothing stands on it"
    ]
    assert answer and spam.event.event_id not in sent["prev_events"]


def test_who_is_let_in(room: OurRoom, alice: Person, guard: Guard, rising: Raise) -> None:
    """A join by way of this server is the policy server's business before it is the room's."""
    careless = rising()
    theirs = copy(room)
    theirs.server = careless
    target = f"{V1}/make_join/{segment(room.id)}/{segment(careless.mallory)}?ver={room.version}"
    template = careless.request("GET", target).json["event"]
    template["content"]["displayname"] = "spam"
    join = theirs.filled(template)
    target = f"{V2}/send_join/{segment(room.id)}/{segment(join.event.event_id)}"
    answer = careless.request("PUT", target, join.event.pdu)
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert "The message appears to be spam" in answer.json["error"]
    assert careless.mallory not in str(alice.state(room.id))


def test_an_invite_is_signed_before_anybody_sees_it(room: OurRoom, alice: Person, guard: Guard) -> None:
    """Here the invited user is one of the policy server's own, whose server signs with its own key as well."""
    shown: list[dict[str, Any]] = []

    def accept(request: Received) -> Any:
        shown.append(request.json["event"])
        return {"event": guard.server.sign_pdu(request.json["event"], room.version)}

    guard.server.on("PUT", f"{V2}/invite/{{room}}/{{event}}", accept)
    newcomer = {"user_id": guard.server.user("newcomer")}
    with pytest.raises(Refused) as refused:
        alice.call("POST", f"v3/rooms/{room.id}/invite", {**newcomer, "reason": "spam"})
    assert told(refused) == (400, "ORG.EXAMPLE.SPAM") and not shown
    alice.call("POST", f"v3/rooms/{room.id}/invite", {**newcomer, "reason": "come"})
    (event,) = shown
    assert set(event["signatures"][guard.server.name]) == {POLICY_KEY_ID}
    alice.say(room.id, "after the invite")
    guard.server.hears("after the invite")
    sent = [pdu for pdu in guard.server.signed_by(guard.server.name) if pdu["type"] == "m.room.member"]
    assert any(
        set(pdu["signatures"][guard.server.name]) == {POLICY_KEY_ID, guard.server.key.key_id} for pdu in sent
    )


def test_one_that_is_down_and_how_to_be_rid_of_it(room: OurRoom, alice: Person, guard: Guard) -> None:
    """Nothing is sent without it, but for the room's word that it is not wanted any more."""
    guard.down = True
    for _ in range(2):
        with pytest.raises(Refused, match="policy server") as refused:
            alice.say(room.id, "hello?")
        assert told(refused) == (502, "M_UNKNOWN")
    unsigned = room.send("m.room.message", {"body": "is it down?"}, sender=guard.server.bob)
    assert guard.server.send(unsigned) == {unsigned.event.event_id: {}}
    alice.set_state(room.id, "m.room.policy", {})
    alice.say(room.id, "spam is no matter now")
    guard.server.hears("spam is no matter now")
    unseen(room, alice, "is it down?", "hello?")


def test_its_last_user_leaves(room: OurRoom, alice: Person, guard: Guard) -> None:
    """A policy server that does not want to be one goes."""
    gone = [room.member(user, "leave") for user in (guard.server.mallory, guard.server.bob)]
    guard.server.send(*gone)
    alice.until(
        lambda me: room.id in me.joined and me.joined[room.id].membership(guard.server.bob) == "leave",
        "seeing it go",
    )
    alice.say(room.id, "spam")
    assert guard.askers("spam") == []


def test_this_server_is_none(alice: Person, guard: Guard) -> None:
    """A room that says so is told, until it says otherwise."""
    room_id = alice.create_room()
    itself = {**guard.content, "via": alice.server.server_name}
    alice.set_state(room_id, "m.room.policy", itself)
    with pytest.raises(Refused, match=r"change m\.room\.policy") as refused:
        alice.say(room_id, "hello")
    assert told(refused) == (403, "M_FORBIDDEN")
    alice.set_state(room_id, "m.room.policy", {})
    alice.say(room_id, "hello")
