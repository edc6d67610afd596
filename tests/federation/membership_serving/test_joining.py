# SPDX-License-Identifier: Apache-2.0
"""Joins of other servers' users: the handshake, the answer with the room, and who is refused."""

from __future__ import annotations

from typing import Any

import pytest

from federation.serving import join_answers
from homeserver.protocol.events import Event
from homeserver.protocol.hashes import content_hash_matches
from homeserver.protocol.room_versions import room_version
from tests.federation.membership_serving.world import SPEAKS, US, V1, VERSIONS, Serving, Visitor, id_of
from tests.federation.servers import RemoteServer
from tests.rooms.services_fixture import alice, bob, carol

NO_FIELDS = {"hashes", "signatures", "event_id", "unsigned"}


def types_of(pdus: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """The state the events make."""
    return {(pdu["type"], pdu["state_key"]) for pdu in pdus}


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_template_says_where_the_join_goes(serving: Serving, hydra: Visitor, version: str) -> None:
    """It has everything but what its signer must make: time aside, nothing of it is anybody's word."""
    room_id = await serving.house.public(version=version)
    answer = await hydra.make("join", room_id)
    assert answer.status == 200
    assert answer.json["room_version"] == version
    event = answer.json["event"]
    assert not NO_FIELDS & event.keys()
    assert (event["type"], event["sender"], event["state_key"]) == (
        "m.room.member",
        hydra.user_id,
        hydra.user_id,
    )
    assert (event["room_id"], event["content"], event["origin"]) == (room_id, {"membership": "join"}, US)
    head = await serving.head(room_id)
    latest = [ref if isinstance(ref, str) else ref[0] for ref in event["prev_events"]]
    assert latest == [event_id for event_id, _ in head.extremities]
    assert event["depth"] == head.depth + 1
    assert event["auth_events"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_join_is_answered_with_the_room(serving: Serving, hydra: Visitor, version: str) -> None:
    """The state before the join and all auth chains, each event whole; and the user is in the room."""
    room_id = await serving.house.public(bob, version=version)
    before = await serving.head(room_id)
    joining = (await hydra.filled("join", room_id)).event
    answer = await hydra.send("join", room_id, joining.pdu, event_id=joining.event_id)
    assert answer.status == 200, answer.raw
    body = answer.json
    expected = set(before.state) | {("m.room.member", user) for user in before.members}
    assert types_of(body["state"]) == expected
    known = {id_of(pdu, version) for pdu in (*body["state"], *body["auth_chain"])}
    for pdu in (*body["state"], *body["auth_chain"], body["event"]):
        assert content_hash_matches(pdu, room_version(version))
        event = Event.from_pdu(pdu, room_version(version))
        assert set(event.auth_event_ids) <= known
    assert id_of(body["event"], version) == joining.event_id
    assert (body["members_omitted"], body["origin"]) == (False, US)
    head = await serving.head(room_id)
    assert head.is_joined(hydra.user_id)
    assert [event_id for event_id, _ in head.extremities] == [joining.event_id]


async def test_the_join_is_spread(serving: Serving, hydra: Visitor, other: Visitor) -> None:
    """It is marked for the other servers of the room, as an event of ours would be."""
    room_id = await serving.house.public()
    assert (await other.join(room_id)).status == 200
    assert (await hydra.join(room_id)).status == 200
    rows = await serving.database.fetch(
        "test_outbound", "SELECT state_key FROM events WHERE outbound AND type = 'm.room.member'", ()
    )
    assert {hydra.user_id, other.user_id} <= {row[0] for row in rows}


async def test_the_first_version_answers_in_an_array(serving: Serving, hydra: Visitor) -> None:
    """`[200, {…}]`."""
    room_id = await serving.house.public(version="1")
    event = (await hydra.filled("join", room_id)).event
    answer = await hydra.send("join", room_id, event.pdu, event_id=event.event_id, under=V1)
    assert answer.status == 200
    status, body = answer.json
    assert status == 200
    assert ("m.room.create", "") in types_of(body["state"])


async def test_a_repeated_join_gets_the_same_answer(serving: Serving, hydra: Visitor) -> None:
    """The answer to the first may have been lost on its way."""
    room_id = await serving.house.public(bob)
    event = (await hydra.filled("join", room_id)).event
    first = await hydra.send("join", room_id, event.pdu, event_id=event.event_id)
    again = await hydra.send("join", room_id, event.pdu, event_id=event.event_id)
    assert first.status == again.status == 200
    assert types_of(first.json["state"]) == types_of(again.json["state"])
    assert first.json["event"] == again.json["event"]


async def test_members_are_omitted_but_for_heroes(serving: Serving, hydra: Visitor) -> None:
    """A room without a name is named by its members, so those come along (MSC3706)."""
    room_id = await serving.house.public(bob, carol)
    body = (await hydra.join(room_id, query=[("omit_members", "true")])).json
    assert body["members_omitted"] is True
    assert body["servers_in_room"] == [US]
    members = {key for kind, key in types_of(body["state"]) if kind == "m.room.member"}
    assert members == {alice.user_id, bob.user_id, carol.user_id}
    given = {id_of(pdu, "12") for pdu in body["state"]}
    assert not given & {id_of(pdu, "12") for pdu in body["auth_chain"]}


async def test_members_of_a_named_room_are_omitted(serving: Serving, hydra: Visitor, other: Visitor) -> None:
    """Only those that auth events need are there, in the auth chain; the servers are those before the join."""
    room_id = await serving.house.public(bob, version="11")
    await serving.house.set(alice, room_id, "m.room.name", {"name": "Chess"})
    assert (await other.join(room_id)).status == 200
    body = (await hydra.join(room_id, query=[("omit_members", "true")])).json
    assert {kind for kind, _ in types_of(body["state"])}.isdisjoint({"m.room.member"})
    assert ("m.room.member", alice.user_id) in types_of(body["auth_chain"])
    assert ("m.room.member", bob.user_id) not in types_of(body["auth_chain"])
    assert body["servers_in_room"] == [US, other.server.name]


async def test_a_large_room_is_read_in_portions(
    serving: Serving, hydra: Visitor, other: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many portions it takes, nothing is missing and nothing there twice."""
    room_id = await serving.house.public(bob, carol, version="11")
    whole = (await hydra.join(room_id)).json
    monkeypatch.setattr(join_answers, "PORTION", 2)
    body = (await other.join(room_id)).json
    ids = [id_of(pdu, "11") for pdu in body["state"]]
    assert len(ids) == len(set(ids)) == len(whole["state"]) + 1
    chain = [id_of(pdu, "11") for pdu in body["auth_chain"]]
    assert len(chain) == len(set(chain))
    assert set(chain) == {id_of(pdu, "11") for pdu in whole["auth_chain"]}


async def test_a_struck_event_is_given_struck(serving: Serving, hydra: Visitor) -> None:
    """What was redacted here is not given away."""
    room_id = await serving.house.public(version="11")
    topic = await serving.house.set(alice, room_id, "m.room.topic", {"topic": "the secret"})
    await serving.house.rooms.redacting.redact(alice, room_id, topic, {})
    answer = await hydra.join(room_id)
    assert answer.status == 200
    assert b"the secret" not in answer.raw


# Refusals of make_join.


async def test_a_room_that_is_not_known_is_not_found(hydra: Visitor) -> None:
    """404."""
    answer = await hydra.make("join", "!nowhere:localhost")
    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")


async def test_a_room_that_everybody_of_ours_left_is_not_found(
    serving: Serving, hydra: Visitor, other: Visitor
) -> None:
    """In the same words as one that is not known: what is known of it here is old."""
    room_id = await serving.house.public()
    assert (await other.join(room_id)).status == 200
    await serving.house.rooms.leaving.leave(alice, room_id)
    answer = await hydra.make("join", room_id)
    unknown = await hydra.make("join", "!nowhere:localhost")
    assert (answer.status, answer.raw) == (404, unknown.raw)


async def test_a_version_that_the_server_does_not_speak_is_named(serving: Serving, hydra: Visitor) -> None:
    """A server that says nothing speaks version 1."""
    room_id = await serving.house.public(version="11")
    for query in ([("ver", "9"), ("ver", "10")], []):
        answer = await hydra.make("join", room_id, query=query)
        assert (answer.status, answer.errcode) == (400, "M_INCOMPATIBLE_ROOM_VERSION")
        assert answer.json["room_version"] == "11"
    old = await serving.house.public(version="1")
    assert (await hydra.make("join", old, query=[])).status == 200


async def test_an_uninvited_user_is_refused(serving: Serving, hydra: Visitor) -> None:
    """403, by make_join; and by send_join if that was passed by."""
    room_id = await serving.house.create(preset="private_chat", version="11")
    answer = await hydra.make("join", room_id)
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


async def test_a_room_closed_after_the_template_stays_closed(serving: Serving, hydra: Visitor) -> None:
    """The template promises nothing."""
    room_id = await serving.house.public(version="11")
    event = (await hydra.filled("join", room_id)).event
    await serving.house.set(alice, room_id, "m.room.join_rules", {"join_rule": "invite"})
    answer = await hydra.send("join", room_id, event.pdu, event_id=event.event_id)
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert not (await serving.head(room_id)).is_joined(hydra.user_id)


async def test_a_banned_user_is_refused(serving: Serving, hydra: Visitor) -> None:
    """At both steps, also when the ban came in between."""
    room_id = await serving.house.public(version="11")
    event = (await hydra.filled("join", room_id)).event
    await serving.house.rooms.banning.ban(alice, room_id, hydra.user_id)
    assert (await hydra.make("join", room_id)).status == 403
    answer = await hydra.send("join", room_id, event.pdu, event_id=event.event_id)
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


async def test_a_server_that_the_room_shuts_out_is_refused(serving: Serving, hydra: Visitor) -> None:
    """403 at every door of the room."""
    room_id = await serving.house.public(version="11")
    events = {kind: (await hydra.filled(kind, room_id)).event for kind in ("join",)}
    acl = {"allow": ["*"], "deny": ["hydra.*"]}
    await serving.house.set(alice, room_id, "m.room.server_acl", acl)
    for kind in ("join", "leave", "knock"):
        answer = await hydra.make(kind, room_id)
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
        pdu = events["join"].pdu
        answer = await hydra.send(kind, room_id, pdu, event_id=events["join"].event_id, under=V1)
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


async def test_a_user_of_another_server_gets_no_template(
    serving: Serving, hydra: Visitor, other: Visitor
) -> None:
    """Servers speak for their own users; nor for ours."""
    room_id = await serving.house.public(version="11")
    for kind in ("join", "leave", "knock"):
        for user_id in (other.user_id, bob.user_id):
            answer = await hydra.make(kind, room_id, user_id=user_id)
            assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
        answer = await hydra.make(kind, room_id, user_id="nobody")
        assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


async def test_a_request_without_signature_is_refused(serving: Serving) -> None:
    """401 at every endpoint."""
    stranger = RemoteServer("hydra.test", key=None)
    stranger.key = RemoteServer("else.test").key
    visitor = Visitor(serving, stranger)
    for kind in ("join", "leave", "knock"):
        assert (await visitor.make(kind, "!room:localhost", query=SPEAKS)).status == 401
        sent = await visitor.send(kind, "!room:localhost", {}, event_id="$event", under=V1)
        assert sent.status == 401
