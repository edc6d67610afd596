# SPDX-License-Identifier: Apache-2.0
"""Requests that are not what they say: unsigned, wrongly signed, for somebody else, or in somebody's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from homeserver.protocol.signing import SigningKey
from tests.federation.hostile.battlefield import OurRoom, unseen
from tests.federation.hostile.conftest import Raise
from tests.federation.hostile.hostile_server import V1, V2, HostileServer, segment
from tests.federation.servers import make_key
from tests.interop.federation.people import Person

BAD = "never to be seen"
TARGET = f"{V1}/send/unproven"


def body(room: OurRoom, hostile: HostileServer) -> dict[str, Any]:
    """A transaction that would be fine."""
    message = room.event("m.room.message", {"body": BAD}, sender=hostile.bob)
    return {"origin": hostile.name, "origin_server_ts": 1, "pdus": [message.event.pdu]}


HEADERS: dict[str, Callable[[HostileServer, Any], str]] = {
    "none": lambda hostile, content: "",
    "a user's": lambda hostile, content: "Bearer token",
    "garbage": lambda hostile, content: 'X-Matrix ,,,=,"',
    "endless": lambda hostile, content: "X-Matrix " + ",".join(f'a{n}="b"' for n in range(400)),
    "no signature": lambda hostile, content: hostile.authorization(
        hostile.ours, "PUT", TARGET, content, sig=""
    ),
    "false": lambda hostile, content: hostile.authorization(
        hostile.ours, "PUT", TARGET, content, sig="A" * 86
    ),
    "another key": lambda hostile, content: hostile.authorization(
        hostile.ours, "PUT", TARGET, content, key="ed25519:other"
    ),
    "another kind of key": lambda hostile, content: hostile.authorization(
        hostile.ours, "PUT", TARGET, content, key="rsa:test"
    ),
    "our name": lambda hostile, content: hostile.authorization(
        hostile.ours, "PUT", TARGET, content, origin=hostile.ours
    ),
    "no name": lambda hostile, content: hostile.authorization(
        hostile.ours, "PUT", TARGET, content, origin="@"
    ),
    "another destination": lambda hostile, content: hostile.authorization(
        "localhost:1", "PUT", TARGET, content
    ),
    "another destination said": lambda hostile, content: hostile.authorization(
        hostile.ours, "PUT", TARGET, content
    ).replace(hostile.ours, "localhost:1"),
    "our destination said": lambda hostile, content: hostile.authorization(
        "localhost:1", "PUT", TARGET, content
    ).replace('"localhost:1"', f'"{hostile.ours}"'),
    "another method": lambda hostile, content: hostile.authorization(hostile.ours, "POST", TARGET, content),
    "another path": lambda hostile, content: hostile.authorization(
        hostile.ours, "PUT", TARGET + "x", content
    ),
    "another query": lambda hostile, content: hostile.authorization(
        hostile.ours, "PUT", TARGET + "?x=1", content
    ),
    "another body": lambda hostile, content: hostile.authorization(hostile.ours, "PUT", TARGET, {"pdus": []}),
    "no body": lambda hostile, content: hostile.authorization(hostile.ours, "PUT", TARGET),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_requests_that_prove_nothing(alice: Person, hostile: HostileServer, kind: str) -> None:
    """They are refused with 401, and nothing in them happens."""
    room = OurRoom(alice, hostile)
    content = body(room, hostile)
    answer = hostile.request("PUT", TARGET, content, authorization=HEADERS[kind](hostile, content))
    assert answer.status == 401, answer
    assert answer.errcode in {"M_UNAUTHORIZED", "M_FORBIDDEN"}, answer
    room.goes_on()
    unseen(room, alice, BAD)


def test_no_read_without_proof(alice: Person, hostile: HostileServer) -> None:
    """Nothing but keys and the version is told to who does not sign."""
    room = OurRoom(alice, hostile)
    at, event_id = segment(room.id), segment(room.latest[0].event.event_id)
    for path in (
        f"{V1}/event/{event_id}",
        f"{V1}/state/{at}?event_id={event_id}",
        f"{V1}/state_ids/{at}?event_id={event_id}",
        f"{V1}/backfill/{at}?v={event_id}&limit=10",
        f"{V1}/event_auth/{at}/{event_id}",
        f"{V1}/make_join/{at}/{segment(hostile.bob)}?ver=11",
        f"{V1}/query/profile?user_id={segment(alice.user_id)}",
        f"{V1}/user/devices/{segment(alice.user_id)}",
        f"{V1}/hierarchy/{at}",
        f"{V1}/publicRooms",
    ):
        answer = hostile.request("GET", path, authorization="")
        assert answer.status in {401, 404}, (path, answer)
        assert alice.user_id not in answer.raw.decode()
    room.goes_on()


def test_advisory_04_another_room_in_the_path(alice: Person, hostile: HostileServer) -> None:
    """A join of one room is not one of another, whichever the path or the event names."""
    room, private = OurRoom(alice, hostile), alice.create_room(preset="private_chat")
    carol = hostile.user("carol")
    join = room.drafted(carol)
    event_id = segment(join.event.event_id)
    for room_id, name in ((private, event_id), (room.id, "$" + "x" * 43), ("!none:x", event_id)):
        for version, kind in ((V1, "send_join"), (V2, "send_join"), (V1, "send_leave"), (V1, "send_knock")):
            target = f"{version}/{kind}/{segment(room_id)}/{name}"
            assert hostile.request("PUT", target, join.event.pdu).status in {400, 403, 404}, target
    room.goes_on()
    unseen(room, alice, carol)


def test_advisory_13_and_10_strangers_read_nothing(alice: Person, rising: Raise) -> None:
    """A server without a user in the room gets neither its events nor what authorizes them, nor its members."""
    hostile, stranger = rising("localhost"), rising("localhost")
    room = OurRoom(alice, hostile, topic="the secret topic")
    said = alice.say(room.id, "a secret")
    levels = room.state["m.room.power_levels", ""].event.event_id
    at = segment(room.id)
    for event_id in (said, levels):
        name = segment(event_id)
        for method, target, content in (
            ("GET", f"{V1}/event/{name}", None),
            ("GET", f"{V1}/event_auth/{at}/{name}", None),
            ("GET", f"{V1}/state/{at}?event_id={name}", None),
            ("GET", f"{V1}/state_ids/{at}?event_id={name}", None),
            ("GET", f"{V1}/backfill/{at}?v={name}&limit=100", None),
            ("POST", f"{V1}/get_missing_events/{at}", {"earliest_events": [], "latest_events": [event_id]}),
            ("GET", f"{V1}/make_leave/{at}/{segment(stranger.bob)}", None),
            ("GET", f"{V1}/make_knock/{at}/{segment(stranger.bob)}?ver=11", None),
        ):
            answer = stranger.request(method, target, content)
            assert answer.status in {403, 404}, (target, answer)
            for secret in (alice.user_id, "secret", levels):
                assert secret not in answer.raw.decode(), target
    room.goes_on()


def test_server_access_by_another_spelling(alice: Person, rising: Raise) -> None:
    """A denied name is denied however it is written, in requests, in events and beside them; so is a pattern."""
    hostile = rising("LocalHost")
    room = OurRoom(alice, hostile)
    alice.set_state(
        room.id, "m.room.server_acl", {"allow": ["*"], "deny": ["lOCALhos?"], "allow_ip_literals": True}
    )
    message = room.event("m.room.message", {"body": BAD}, sender=hostile.bob)
    typing = {"edu_type": "m.typing", "content": {"room_id": room.id, "user_id": hostile.bob, "typing": True}}
    answer = hostile.transaction([message.event.pdu], [typing])
    assert answer.json["pdus"][message.event.event_id].get("error"), answer
    event_id = segment(room.latest[0].event.event_id)
    for target in (
        f"{V1}/make_join/{segment(room.id)}/{segment(hostile.user('carol'))}?ver=11",
        f"{V1}/make_leave/{segment(room.id)}/{segment(hostile.bob)}",
        f"{V1}/state_ids/{segment(room.id)}?event_id={event_id}",
        f"{V1}/backfill/{segment(room.id)}?v={event_id}&limit=10",
    ):
        assert hostile.request("GET", target).status in {403, 404}, target
    alice.sync()
    assert not alice.joined[room.id].typing
    unseen(room, alice, BAD)
    OurRoom(alice, hostile).goes_on()


def test_keys_are_not_asked_for_without_end(alice: Person, hostile: HostileServer) -> None:
    """Requests under ever new key ids ask the server for its keys once, not each time."""
    room = OurRoom(alice, hostile)
    before = hostile.asked("/key/v2/server")
    own = hostile.key
    for number in range(50):
        hostile.key = _named(own, number)
        assert hostile.request("GET", f"{V1}/query/profile?user_id=x").status == 401
    hostile.key = own
    assert hostile.asked("/key/v2/server") - before <= 3
    room.goes_on()


def _named(own: SigningKey, number: int) -> SigningKey:
    return make_key(f"{own.key_id} {number}", f"ed25519:k{number}")
