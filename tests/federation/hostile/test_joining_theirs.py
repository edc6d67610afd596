# SPDX-License-Identifier: Apache-2.0
"""Users of ours who join, leave and knock by way of a hostile server: what it drafts, and what it answers."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.federation.hostile.battlefield import TheirRoom, forged, unseen
from tests.federation.hostile.conftest import Raise
from tests.federation.hostile.hostile_server import V1, V2, Connection, HostileServer, Json, saying, segment
from tests.interop.federation.lares import LaresServer
from tests.interop.federation.people import Person, Refused

BAD = "never to be seen"


def not_joined(alice: Person, room: TheirRoom, errors: tuple[int, ...] = (502,)) -> None:
    """The join fails with an error of the right kind, and nothing of the room is shown."""
    with pytest.raises(Refused) as refusal:
        alice.join(room.id, room.hostile.name)
    assert refusal.value.status in errors, refusal.value
    alice.sync()
    assert room.id not in alice.joined


def afterwards(alice: Person, hostile: HostileServer) -> None:
    """Another room of that server can be joined, and goes on."""
    room = TheirRoom(hostile)
    alice.join(room.id, hostile.name)
    room.goes_on(alice)


def _draft(**changes: Any) -> Callable[[Json], object]:
    return lambda answer: answer["event"].update(changes)


DRAFTS: dict[str, Callable[[Json], object]] = {
    "power levels": _draft(type="m.room.power_levels"),
    "a message": _draft(type="m.room.message", content={"body": BAD}),
    "another membership": _draft(content={"membership": "ban"}),
    "another user": _draft(state_key="@other:localhost"),
    "another sender": _draft(sender="@other:localhost"),
    "another room": _draft(room_id="!other:localhost"),
    "no state key": lambda answer: answer["event"].pop("state_key"),
    "no event": lambda answer: answer.update(event=None),
    "references to what is no event": _draft(prev_events=[1], auth_events=[None]),
    "an endless list": _draft(prev_events=[f"${n:043}" for n in range(1000)]),
    "a version": lambda answer: answer.update(room_version="99"),
    "no version that one could be": lambda answer: answer.update(room_version={"x": 1}),
}


@pytest.mark.parametrize("draft", DRAFTS)
def test_advisory_29_drafts_of_something_else(alice: Person, hostile: HostileServer, draft: str) -> None:
    """What is drafted for a join, a leave or a knock is signed only as that very join, leave or knock."""
    room = TheirRoom(hostile)
    room.resident.twist_template = DRAFTS[draft]
    not_joined(alice, room, (400, 502))
    with pytest.raises(Refused):
        alice.knock(room.id, hostile.name)
    room.resident.twist_template = lambda answer: None
    alice.join(room.id, hostile.name)
    room.goes_on(alice)
    room.resident.twist_template = DRAFTS[draft]
    alice.membership(room.id, "leave")
    for pdu in hostile.signed_by(alice.server.server_name):
        assert pdu["sender"] == alice.user_id and pdu["room_id"] == room.id
        if pdu["type"] != "m.room.message":
            assert pdu["type"] == "m.room.member" and pdu["state_key"] == alice.user_id
            assert pdu["content"]["membership"] in {"join", "leave", "knock"}


def test_advisory_29_an_invite_turned_down(alice: Person, hostile: HostileServer) -> None:
    """Nor is a draft of the leave that turns an invite down anything else."""
    room = TheirRoom(hostile, join_rule="invite")
    invite(room, alice)
    room.resident.twist_template = _draft(
        type="m.room.power_levels", content={"users": {hostile.mallory: 100}}
    )
    alice.membership(room.id, "leave")
    alice.is_out(room.id)
    assert all(
        pdu["type"] == "m.room.member" and pdu["content"]["membership"] in {"invite", "leave"}
        for pdu in hostile.signed_by(alice.server.server_name)
    )
    afterwards(alice, hostile)


def invite(room: TheirRoom, whom: Person, **more: Any) -> Json:
    """Have an honest invite taken; its event as our server signed it."""
    hostile = room.hostile
    event = room.event("m.room.member", {"membership": "invite"}, whom.user_id, sender=hostile.bob)
    body = {
        "event": event.event.pdu,
        "room_version": str(room.version),
        "invite_room_state": [room.state["m.room.create", ""].event.pdu],
        **more,
    }
    target = f"{V2}/invite/{segment(room.id)}/{segment(event.event.event_id)}"
    answer = hostile.request("PUT", target, body)
    assert answer.status == 200, answer
    room.add(event)
    whom.is_invited(room.id)
    return dict(answer.json["event"])


def _without(*keys: tuple[str, str]) -> Callable[[TheirRoom, Json], object]:
    def twist(room: TheirRoom, answer: Json) -> None:
        for part in ("state", "auth_chain"):
            answer[part] = [pdu for pdu in answer[part] if (pdu["type"], pdu.get("state_key")) not in keys]

    return twist


def _another_create(room: TheirRoom, answer: Json) -> None:
    other = TheirRoom(room.hostile).state["m.room.create", ""].event.pdu
    answer["state"] = [other if pdu["type"] == "m.room.create" else pdu for pdu in answer["state"]]


def _a_create_of_another_version(room: TheirRoom, answer: Json) -> None:
    for part in ("state", "auth_chain"):
        answer[part] = [
            forged(room, pdu, content={**pdu["content"], "room_version": "9"})
            if pdu["type"] == "m.room.create"
            else pdu
            for pdu in answer[part]
        ]


def _unsigned(room: TheirRoom, answer: Json) -> None:
    for part in ("state", "auth_chain"):
        answer[part] = [{**pdu, "signatures": {}} for pdu in answer[part]]


def _of_another_room(room: TheirRoom, answer: Json) -> None:
    other = TheirRoom(room.hostile)
    answer["state"] = [built.event.pdu for built in other.state.values()]
    answer["auth_chain"] = [built.event.pdu for built in other.events.values()]


UNBELIEVABLE: dict[str, Callable[[TheirRoom, Json], object]] = {
    "nothing": lambda room, answer: answer.clear(),
    "no state": lambda room, answer: answer.update(state=[], auth_chain=[]),
    "no lists": lambda room, answer: answer.update(state={}, auth_chain="x"),
    "lists of what are no events": lambda room, answer: answer.update(state=[1, None, "x"], auth_chain=[[]]),
    "no create event": _without(("m.room.create", "")),
    "no power levels": _without(("m.room.power_levels", "")),
    "another room's create event": _another_create,
    "a create event of another version": _a_create_of_another_version,
    "unsigned": _unsigned,
    "another room": _of_another_room,
    "a million events that are none": lambda room, answer: answer.update(auth_chain=[{}] * 1_000_000),
    "very deep": lambda room, answer: answer.update(state=[_nested(5_000)]),
}


def _nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth // 10):
        value = {"n": value}
    return value


@pytest.mark.parametrize("lie", UNBELIEVABLE)
def test_answers_to_a_join_that_are_none(alice: Person, hostile: HostileServer, lie: str) -> None:
    """The join fails with an error, nothing of the room is shown, and other rooms of that server are good."""
    room = TheirRoom(hostile)
    room.resident.twist_answer = lambda answer: UNBELIEVABLE[lie](room, answer)
    not_joined(alice, room)
    afterwards(alice, hostile)


@pytest.mark.parametrize("version", ["1", "11", "12"])
def test_members_that_never_joined(alice: Person, rising: Raise, lares: LaresServer, version: str) -> None:
    """A state with users of ours and of third servers who never joined is taken without them."""
    hostile, third = rising("localhost"), rising("localhost")
    victim = lares.register(f"victim{id(hostile) % 10**9}")
    room = TheirRoom(hostile, version)
    content = {"membership": "join", "displayname": BAD}
    lies = [
        room.event("m.room.member", content, user, sender=user).event.pdu
        for user in (victim.user_id, third.bob)
    ]
    topic = room.event("m.room.topic", {"topic": BAD}, "", sender=hostile.mallory).event.pdu
    room.resident.twist_answer = lambda answer: answer["state"].extend([*lies, topic])
    alice.join(room.id, hostile.name)
    keys = alice.state(room.id).keys()
    assert ("m.room.member", victim.user_id) not in keys
    assert ("m.room.member", third.bob) not in keys
    assert ("m.room.topic", "") not in keys
    victim.sync()
    assert room.id not in victim.joined
    room.resident.twist_answer = lambda answer: None
    room.goes_on(alice)
    unseen(room, alice, BAD)


def test_a_state_with_two_of_a_kind(alice: Person, hostile: HostileServer) -> None:
    """One of them stands, or the join fails; either way all goes on."""
    room = TheirRoom(hostile)
    other = room.event("m.room.join_rules", {"join_rule": "public"}, "").event.pdu
    room.resident.twist_answer = lambda answer: answer["state"].append(other)
    try:
        alice.join(room.id, hostile.name)
    except Refused as refusal:
        assert refusal.status == 502
    afterwards(alice, hostile)


@pytest.mark.parametrize("version", ["1"])
def test_an_authorization_chain_in_a_circle(alice: Person, hostile: HostileServer, version: str) -> None:
    """Events that allow each other are no reason to let anything in."""
    room = TheirRoom(hostile, version)
    pdu = room.event("m.room.topic", {"topic": BAD}, "", sender=hostile.user()).event.pdu
    names = [f"$one:{hostile.name}", f"$two:{hostile.name}"]
    hashes = {"sha256": "A" * 43}
    circle = [
        forged(room, pdu, event_id=name, auth_events=[*pdu["auth_events"], [other, hashes]])
        for name, other in zip(names, reversed(names), strict=True)
    ]

    def twist(answer: Json) -> None:
        answer["auth_chain"] += circle
        answer["state"].append(circle[0])

    room.resident.twist_answer = twist
    try:
        alice.join(room.id, hostile.name)
        room.goes_on(alice)
        unseen(room, alice, BAD)
    except Refused as refusal:
        assert refusal.status == 502
    afterwards(alice, hostile)


def peak_memory(lares: LaresServer) -> int:
    """Bytes of memory that our server had at most."""
    with open(f"/proc/{lares.pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def _endless(chunk: bytes) -> Iterator[bytes]:
    yield b'{"state": [], "auth_chain": ["'
    while True:
        yield chunk


def test_advisory_20_an_answer_without_end(alice: Person, hostile: HostileServer, lares: LaresServer) -> None:
    """It is cut off at its limit, which memory bears, declared or not."""
    room = TheirRoom(hostile)
    before, taken = peak_memory(lares), []

    def answer(connection: Connection) -> None:
        taken.append(connection.stream(_endless(b"x" * (1 << 20))))

    hostile.on("PUT", f"{V2}/send_join/{{room}}/{{event}}", lambda request: answer)
    not_joined(alice, room)
    hostile.on(
        "PUT",
        f"{V2}/send_join/{{room}}/{{event}}",
        lambda request: lambda connection: connection.stream(iter([b"{"]), length=1 << 40),
    )
    not_joined(alice, room)
    assert taken[0] < 128 << 20
    assert peak_memory(lares) - before < 512 << 20
    afterwards(alice, hostile)


def test_advisory_32_a_small_answer_that_grows(
    alice: Person, hostile: HostileServer, lares: LaresServer
) -> None:
    """What is compressed counts as what it becomes."""
    room = TheirRoom(hostile)
    bomb = gzip.compress(b'{"state": ["' + b"x" * (100 << 20) + b'"]}', 1)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n".encode()
    hostile.on("PUT", f"{V2}/send_join/{{room}}/{{event}}", saying(head + bomb))
    before = peak_memory(lares)
    not_joined(alice, room)
    assert peak_memory(lares) - before < 64 << 20
    afterwards(alice, hostile)


def test_advisory_24_answers_that_lead_elsewhere(alice: Person, rising: Raise) -> None:
    """A redirect is no answer to a request between servers: nobody else is asked in its place."""
    hostile, inner = rising("localhost"), rising("localhost")
    room = TheirRoom(hostile)
    for status in (301, 302, 307, 308):
        lines = (
            f"HTTP/1.1 {status} Moved",
            f"Location: https://{inner.name}/_matrix/federation/v1/secret",
            "Content-Length: 0",
        )
        head = "\r\n".join([*lines, "", ""]).encode()
        hostile.on("GET", f"{V1}/make_join/{{room}}/{{user}}", saying(head))
        not_joined(alice, room)
    assert not inner.received
    afterwards(alice, hostile)


def test_what_is_no_answer(alice: Person, hostile: HostileServer) -> None:
    """No JSON, no HTTP, nothing at all, or an error that is none: the join fails, and that is all."""
    room = TheirRoom(hostile)
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: "
    for head in (
        b"",
        b"\x16\x03\x01 nonsense\r\n\r\n",
        ok + b"4\r\n\r\nnull",
        ok + b"9\r\n\r\n[NaN, 1]\n",
        ok + b"-5\r\n\r\n",
        ok + b"2\r\nContent-Length: 3\r\n\r\n{}",
        ok + b"100\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 200,
        b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"x" * 200_000 + b"\r\n\r\n",
        b'HTTP/1.1 403 No\r\nContent-Length: 26\r\n\r\n{"errcode": ["M_FORBIDDEN"]}',
    ):
        hostile.on("GET", f"{V1}/make_join/{{room}}/{{user}}", saying(head))
        not_joined(alice, room)
    afterwards(alice, hostile)
