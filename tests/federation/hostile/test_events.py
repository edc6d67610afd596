# SPDX-License-Identifier: Apache-2.0
"""Events that should not be, sent into a room of ours that the hostile server is in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from homeserver.protocol.event_format import parse_pdu
from tests.federation.hostile.battlefield import OurRoom, TheirRoom, forged, refused, unseen
from tests.federation.hostile.conftest import Raise
from tests.federation.hostile.hostile_server import HostileServer, segment
from tests.federation.inbound.forging import resigned
from tests.federation.servers import make_key, now_ms
from tests.interop.federation.people import Person

BAD = "never to be seen"
VERSIONS = ["1", "11", "12"]


@pytest.mark.parametrize("version", VERSIONS)
def test_advisory_01_forged_senders(alice: Person, rising: Raise, version: str) -> None:
    """Events in the name of our user, or of a third server's, whatever `origin` says and whoever signs besides."""
    hostile, third = rising("localhost"), rising("localhost")
    room = OurRoom(alice, hostile, version)
    content = {"body": BAD}
    for sender in (alice.user_id, third.bob):
        pdu = room.event("m.room.message", content, sender=sender).event.pdu
        both = hostile.sign_pdu({**pdu, "signatures": {}}, version)
        refused(hostile, pdu, forged(room, pdu, origin=hostile.name), forged(room, pdu, origin=third.name))
        refused(hostile, {**both, "signatures": {sender.partition(":")[2]: pdu["signatures"][hostile.name]}})
    unseen(room, alice, BAD)
    room.goes_on()


@pytest.mark.parametrize("version", VERSIONS)
def test_power_is_not_grabbed(alice: Person, hostile: HostileServer, version: str) -> None:
    """Nor used once grabbed: what was rejected allows nothing, as state of the room or cited as what allows."""
    room = OurRoom(alice, hostile, version)
    before = alice.state(room.id)
    mallory = hostile.mallory
    users = {} if room.version.privileged_creators else {alice.user_id: 100}
    coup = room.event(
        "m.room.power_levels", {"users": {**users, mallory: 100}, "users_default": 100}, "", sender=mallory
    )
    hostile.send(coup)
    topic = room.event("m.room.topic", {"topic": BAD}, "", sender=mallory, prev=[coup])
    cited = hostile.pdu(
        version=version,
        room_id=room.id,
        event_type="m.room.topic",
        state_key="",
        content={"topic": BAD},
        sender=mallory,
        prev=[*room.latest],
        auth=[
            *([] if room.version.room_id_is_create_hash else [room.state["m.room.create", ""]]),
            coup,
            room.state["m.room.member", mallory],
        ],
    )
    kick = room.event("m.room.member", {"membership": "ban"}, alice.user_id, sender=mallory)
    create = forged(room, topic.event.pdu, type="m.room.create", content={"creator": mallory})
    join = room.event("m.room.member", {"membership": "join"}, f"@x:{hostile.name}", sender=mallory)
    hostile.send(topic, cited, kick, create, join)
    room.goes_on()
    assert alice.state(room.id) == before
    unseen(room, alice, BAD)


@pytest.mark.parametrize("version", VERSIONS)
def test_wrong_hashes_and_signatures(alice: Person, hostile: HostileServer, version: str) -> None:
    """What was changed after signing is shown without content; what is not signed, or badly, is not shown."""
    room = OurRoom(alice, hostile, version)
    pdu = room.event("m.room.message", {"body": "kind"}, sender=hostile.mallory).event.pdu
    changed = {**pdu, "content": {"body": BAD}}
    hostile.send(changed)
    strange, known = make_key("strange"), pdu["signatures"][hostile.name]
    odd: list[Any] = [
        {},
        {hostile.name: {}},
        {hostile.name: {hostile.key.key_id: "A" * 86}},
        {hostile.name: {hostile.key.key_id: "not base64!"}},
        {hostile.name: {"ed25519:none": next(iter(known.values()))}},
        {hostile.name: {"rsa:test": next(iter(known.values()))}},
        {hostile.name: {hostile.key.key_id: 7}},
        {hostile.name: "x"},
        [],
    ]
    for signatures in odd:
        refused(hostile, {**_plain(room, hostile), "signatures": signatures})
    own, hostile.key = hostile.key, strange
    stranger = _plain(room, hostile)
    hostile.key = own
    refused(hostile, stranger)
    room.goes_on()
    unseen(room, alice, BAD)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_altered_copy_that_comes_first(alice: Person, rising: Raise, version: str) -> None:
    """Another server's honest event, passed on with other content, shows none until it comes from its own server."""
    hostile, third = rising("localhost"), rising("localhost")
    room = OurRoom(alice, hostile, version)
    theirs = OurRoom(alice, third, version, visited=room.id)
    honest = theirs.send("m.room.message", {"body": "kind", "msgtype": "m.text"}, sender=third.bob)
    hostile.send({**honest.event.pdu, "content": {"body": BAD}})
    place = f"v3/rooms/{segment(room.id)}/event/{segment(honest.event.event_id)}"
    assert alice.call("GET", place)["content"] == {}
    assert third.send(honest) == {honest.event.event_id: {}}
    hostile.send({**honest.event.pdu, "content": {"body": BAD}})
    assert alice.call("GET", place)["content"]["body"] == "kind"
    shown = {event["event_id"]: event["content"] for event in alice.messages(room.id)["chunk"]}
    assert shown[honest.event.event_id]["body"] == "kind"
    unseen(room, alice, BAD)
    theirs.goes_on()


def _plain(room: OurRoom, hostile: HostileServer) -> dict[str, Any]:
    return dict(room.event("m.room.message", {"body": BAD}, sender=hostile.mallory).event.pdu)


def test_advisory_25_expired_keys(alice: Person, rising: Raise) -> None:
    """A key that its server says it has given up signs nothing of later."""
    hostile = rising("localhost")
    lost = make_key("lost", "ed25519:lost")
    hostile.old_keys["ed25519:lost"] = (lost.verify_key, now_ms() - 3_600_000)
    room = OurRoom(alice, hostile)
    present, hostile.key = hostile.key, lost
    late = room.event("m.room.message", {"body": BAD}, sender=hostile.mallory)
    hostile.key = present
    refused(hostile, late.event.pdu)
    target = "/_matrix/federation/v1/send/x"
    hostile.key = lost
    header = hostile.authorization(hostile.ours, "PUT", target, {"pdus": []})
    hostile.key = present
    assert hostile.request("PUT", target, {"pdus": []}, authorization=header).status == 401
    room.goes_on()
    unseen(room, alice, BAD)


@pytest.mark.parametrize("version", VERSIONS)
def test_authority_of_another_room(alice: Person, hostile: HostileServer, version: str) -> None:
    """Events of a room of theirs allow nothing in ours, whether they are known here or not."""
    room, theirs = OurRoom(alice, hostile, version), TheirRoom(hostile, version)
    alice.join(theirs.id, hostile.name)
    before = alice.state(room.id)
    for source in (theirs, TheirRoom(hostile, version)):
        keys = [("m.room.power_levels", ""), ("m.room.member", hostile.user())]
        if not room.version.room_id_is_create_hash:
            keys.append(("m.room.create", ""))
        topic = hostile.pdu(
            version=version,
            room_id=room.id,
            event_type="m.room.topic",
            state_key="",
            content={"topic": BAD},
            sender=hostile.user(),
            prev=room.latest,
            auth=[source.state[key] for key in keys],
        )
        hostile.send(topic)
    room.goes_on()
    theirs.goes_on(alice)
    assert alice.state(room.id) == before
    unseen(room, alice, BAD)


def test_events_of_rooms_we_are_not_in(alice: Person, hostile: HostileServer) -> None:
    """A flood of them is not taken, and asks nobody anything."""
    room, elsewhere = OurRoom(alice, hostile), TheirRoom(hostile)
    asked = hostile.asked_for_more
    for _ in range(10):
        results = hostile.send(*(elsewhere.message(BAD) for _ in range(50)))
        assert all("error" in result for result in results.values()), "nobody says that they were taken"
    assert hostile.asked_for_more - asked <= 5
    left = room.event("m.room.message", {"body": BAD}, sender=hostile.mallory).event.pdu
    refused(hostile, {**left, "room_id": elsewhere.id}, forged(room, left, room_id=elsewhere.id))
    room.goes_on()


NUMBERS = ["NaN", "Infinity", "-Infinity", "1e400"]


def test_advisory_05_numbers_without_a_form(alice: Person, hostile: HostileServer) -> None:
    """A body with one of them is no JSON; the server goes on."""
    room = OurRoom(alice, hostile)
    pdu = _plain(room, hostile)
    for number in NUMBERS:
        body = b'{"origin": "x", "pdus": [%s], "edus": []}' % (
            b'{"depth": %s, "content": {"n": %s}}' % (number.encode(), number.encode())
        )
        target = f"/_matrix/federation/v1/send/{number}"
        assert hostile.request("PUT", target, {"pdus": []}, raw=body).status in {400, 401}
    refused(hostile, *(_lax(pdu, hostile, content={"n": number}) for number in (2**53, -(2**53), 2**70)))
    assert hostile.transaction([{**pdu, "content": {"n": 1.5}}]).status == 200
    assert hostile.transaction([{**pdu, "depth": 1.5}]).status == 200
    room.goes_on()
    unseen(room, alice, BAD)


@pytest.mark.parametrize("version", ["5", "11"])
def test_advisory_26_depths_and_times(alice: Person, hostile: HostileServer, version: str) -> None:
    """Out of range they are refused; at its end they are taken, and what comes after goes out as well."""
    room = OurRoom(alice, hostile, version)
    pdu = _plain(room, hostile)
    for depth in (2**53, 2**63, 2**64, 10**30, -1, "1", None, True):
        refused(hostile, {**pdu, "depth": depth})
    refused(hostile, *(_lax(pdu, hostile, depth=depth) for depth in (-1, 2**63, 2**64, 10**30)))
    for time in (2**53, 2**64, -(2**64), "now"):
        refused(hostile, {**pdu, "origin_server_ts": time})
    for time, depth in ((0, 1), (now_ms() + 3_600_000, 2**53 - 1)):
        deep = forged(room, {**pdu, "content": {"body": "deep"}}, depth=depth, origin_server_ts=time)
        event = parse_pdu(deep, room.version)
        assert hostile.send(event) == {event.event_id: {}}
    for _ in range(2):
        room.goes_on()
    unseen(room, alice, BAD)


def _lax(pdu: dict[str, Any], hostile: HostileServer, **changes: Any) -> dict[str, Any]:
    """A message changed in a way that strict JSON forbids, signed as for an old room."""
    return resigned({**pdu, **changes}, "5", hostile)


def _sized(room: OurRoom, hostile: HostileServer, size: int) -> Any:
    """A message whose canonical form has that many bytes."""
    empty = room.event("m.room.message", {"body": ""}, sender=hostile.mallory)
    missing = size - len(empty.json_bytes)
    return forged(room, empty.event.pdu, content={"body": "x" * missing})


@pytest.mark.parametrize("version", ["3", "11"])
def test_sizes(alice: Person, hostile: HostileServer, version: str) -> None:
    """65,536 bytes are an event, one more is none; keys have 255."""
    room = OurRoom(alice, hostile, version)
    largest = parse_pdu(_sized(room, hostile, 65_536), room.version)
    assert hostile.send(largest) == {largest.event_id: {}}
    refused(hostile, _sized(room, hostile, 65_537), _sized(room, hostile, 200_000))
    pdu = _plain(room, hostile)
    longest = parse_pdu(forged(room, pdu, type="t" * 255, content={}), room.version)
    assert hostile.send(longest) == {longest.event_id: {}}
    long_user = f"@{'m' * 255}:{hostile.name}"
    refused(
        hostile,
        forged(room, pdu, type="t" * 256),
        forged(room, pdu, type="ö" * 128),
        forged(room, pdu, state_key="s" * 256),
        forged(room, pdu, sender=long_user),
    )
    refused(hostile, forged(room, pdu, unsigned={"x": "y" * 70_000}, content={"body": BAD * 10_000}))
    room.goes_on()
    unseen(room, alice, BAD)


ODD: list[Callable[[dict[str, Any]], Any]] = [
    lambda pdu: None,
    lambda pdu: [],
    lambda pdu: "event",
    lambda pdu: {},
    lambda pdu: {"room_id": pdu["room_id"]},
    lambda pdu: {**pdu, "room_id": 7},
    lambda pdu: {**pdu, "type": ["m.room.message"]},
    lambda pdu: {**pdu, "sender": None},
    lambda pdu: {**pdu, "sender": "mallory"},
    lambda pdu: {**pdu, "content": None},
    lambda pdu: {**pdu, "content": "x"},
    lambda pdu: {**pdu, "prev_events": "x"},
    lambda pdu: {**pdu, "prev_events": [[]]},
    lambda pdu: {**pdu, "prev_events": [f"${number:043}" for number in range(21)]},
    lambda pdu: {**pdu, "auth_events": [{}]},
    lambda pdu: {**pdu, "auth_events": [f"${number:043}" for number in range(11)]},
    lambda pdu: {**pdu, "hashes": None},
    lambda pdu: {**pdu, "hashes": {"sha256": 1}},
    lambda pdu: {**pdu, "signatures": None},
    lambda pdu: {**pdu, "type": "with\0null"},
    lambda pdu: {**pdu, "state_key": "\0"},
]


@pytest.mark.parametrize("version", ["1", "11"])
def test_what_is_no_event(alice: Person, hostile: HostileServer, version: str) -> None:
    """However odd, it harms neither the good event beside it nor the answer."""
    room = OurRoom(alice, hostile, version)
    for number, odd in enumerate(ODD):
        bad = odd(_plain(room, hostile))
        good = room.send("m.room.message", {"body": f"beside {number}"}, sender=hostile.bob)
        answer = hostile.transaction([bad, good.event.pdu, bad])
        assert answer.status == 200, (number, answer)
        assert answer.json["pdus"][good.event.event_id] == {}, number
    alice.hears(room.id, f"beside {len(ODD) - 1}")
    room.goes_on()
    unseen(room, alice, BAD)


def test_nesting(alice: Person, hostile: HostileServer) -> None:
    """Arrays in arrays without end do not reach the bottom of anything."""
    room = OurRoom(alice, hostile)
    for depth in (150, 1_000, 30_000):
        raw = b'{"origin":"x","origin_server_ts":1,"pdus":[{"content":%s%s}]}' % (b"[" * depth, b"]" * depth)
        answer = hostile.request("PUT", f"/_matrix/federation/v1/send/n{depth}", {"pdus": []}, raw=raw)
        assert answer.status in {400, 401}, answer
    nested: Any = "x"
    for _ in range(190):
        nested = {"n": nested}
    hostile.transaction([forged(room, _plain(room, hostile), content={"n": nested, "body": "deep"})])
    room.goes_on()


def test_transactions_beyond_their_size(alice: Person, hostile: HostileServer) -> None:
    """51 events, 101 units, or too many bytes are refused as a whole, before anything of it is looked at."""
    room = OurRoom(alice, hostile)
    events = [room.event("m.room.message", {"body": f"{BAD} {n}"}, sender=hostile.mallory) for n in range(51)]
    assert hostile.transaction([each.event.pdu for each in events]).status == 400
    typing = {"edu_type": "m.typing", "content": {"room_id": room.id, "user_id": hostile.bob, "typing": True}}
    assert hostile.transaction([], [typing] * 101).status == 400
    bodies: list[Any] = [{"pdus": {}}, {"pdus": "x"}, {"pdus": [], "edus": {}}, [], "x"]
    for body in bodies:
        assert hostile.request("PUT", "/_matrix/federation/v1/send/odd", body).status == 400
    large = b" " * (40 << 20)
    try:
        status = hostile.request("PUT", "/_matrix/federation/v1/send/large", raw=large).status
    except OSError:
        status = 413  # it hung up while we were still sending
    assert status == 413
    room.goes_on()
    unseen(room, alice, BAD)


@pytest.mark.parametrize("version", ["1", "2"])
def test_circles(alice: Person, hostile: HostileServer, version: str) -> None:
    """Where ids are made up, events can come before themselves, and allow themselves: they get nowhere."""
    room = OurRoom(alice, hostile, version)
    before = alice.state(room.id)
    pdu = room.event("m.room.topic", {"topic": BAD}, "", sender=hostile.mallory).event.pdu
    names = [f"$circle{n}:{hostile.name}" for n in range(3)]
    hashes = {"sha256": "A" * 43}
    following = dict(zip(names, [*names[1:], names[0]], strict=True))
    by_prev = [forged(room, pdu, event_id=n, prev_events=[[f, hashes]]) for n, f in following.items()]
    by_auth = [
        forged(room, pdu, event_id=f"{n}a", auth_events=[[f"{f}a", hashes], *pdu["auth_events"]])
        for n, f in following.items()
    ]
    own = f"$self:{hostile.name}"
    itself = forged(room, pdu, event_id=own, prev_events=[[own, hashes]], auth_events=[[own, hashes]])
    answer = hostile.transaction([*by_prev, *by_auth, itself])
    assert answer.status == 200
    room.goes_on()
    assert alice.state(room.id) == before
    assert hostile.asked("/get_missing_events/", "/state_ids/", "/event/", "/event_auth/") <= 200


def test_an_event_id_that_is_taken(alice: Person, hostile: HostileServer) -> None:
    """In room version 1 another event under a known id changes nothing."""
    room = OurRoom(alice, hostile, "1")
    said = alice.say(room.id, "original")
    mine = room.send("m.room.message", {"body": "mine"}, sender=hostile.bob)
    hostile.send(mine)
    alice.hears(room.id, "mine")
    pdu = _plain(room, hostile)
    for event_id in (said, mine.event.event_id):
        hostile.transaction([forged(room, pdu, event_id=event_id)])
    room.goes_on()
    at = f"v3/rooms/{segment(room.id)}/event/{segment(said)}"
    assert alice.call("GET", at)["content"]["body"] == "original"
    unseen(room, alice, BAD)
