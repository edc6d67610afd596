# SPDX-License-Identifier: Apache-2.0
"""The memory budget: its shares add up, entries weigh what they are said to, and a server far beyond it stays right."""

from __future__ import annotations

import gc
import sys
from array import array
from collections import OrderedDict
from collections.abc import Iterable
from types import FunctionType, ModuleType
from typing import Any

import orjson
import pytest

from federation.keys.known import KnownKeys
from homeserver.app.core import now_ms
from homeserver.app.overload import resident_bytes
from homeserver.app.shares import (
    DEVICE_BYTES,
    KEY_BYTES,
    LEDGER_BYTES,
    PERSON_BYTES,
    RECEIPT_BYTES,
    SENT_BYTES,
    STANDING_BYTES,
    TOKEN_BYTES,
    shares_of,
)
from homeserver.devices.news import Moved
from homeserver.events import RoomEvent
from homeserver.presence import Board, Sharing
from homeserver.presence.person import Choice, View
from homeserver.protocol.push_rules import NO_RULES, Reader
from homeserver.protocol.tokens import SyncToken
from homeserver.push_rules import PushRules
from homeserver.rooms.access import RoomGate
from homeserver.rooms.engine import Draft
from homeserver.sync.lazy_members import NOTHING_SENT, SentMembers
from homeserver.sync.wanted_filters import WantedFilters
from homeserver.unread.judging import Item, Views, view_weight
from homeserver.unread.ledger import MAIN, Ledger
from storage.database import Database
from storage.memberships import MembershipStore, Standing
from storage.one_time_keys import KeyCounts
from storage.receipts import Receipt
from storage.server_keys import ServerKey
from storage.state import StateStore
from storage.tokens import TokenOwner
from tests.rooms.engine_fixture import ALICE, Engine, member, message

MIB = 2**20
BUDGET = 6 * MIB
ROOMS, MEMBERS = 80, 120


def deep_size(*roots: object, without: Iterable[object] = ()) -> int:
    """Bytes of objects and all that only they reach; what is of the program, or in `without`, is left out."""
    seen = {id(each) for each in without}
    total, waiting = 0, list(roots)
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | FunctionType):
            continue
        seen.add(id(one))
        if (isinstance(one, int) and -5 <= one <= 256) or one is None or isinstance(one, bool):
            continue
        total += sys.getsizeof(one)
        waiting.extend(gc.get_referents(one))
    return total


@pytest.mark.parametrize("budget", [16 * MIB, 256 * MIB, 10**10])
def test_shares_add_up_to_the_budget(budget: int) -> None:
    assert 0.95 * budget < shares_of(budget).bytes <= budget


def test_entries_weigh_what_they_are_said_to() -> None:
    """Within a factor of two of what the interpreter says, for what is counted and not weighed."""
    number = 10**6
    user, room = f"@someone{number}:one.example", 700
    ledger = Ledger(number)
    for place in range(10):
        ledger.add(MAIN, number + place, highlight=False)
    ledger.reader = (number, Reader(user, "Someone [they/them]"))
    much = Ledger(number)
    for place in range(1, 601):
        much.add(f"$thread{place % 300:037}", number + place, highlight=False)
    assert much.counts.room.notifications == 600
    sent = NOTHING_SENT.plus((room + n, f"@member{number + n}:one.example", number + n) for n in range(1000))
    standing = Standing._make([room, user, "join", *[number] * (len(Standing._fields) - 3)])
    receipt = Receipt._make(
        [number, room, user, "", "", "$" + "a" * 43, *[number] * (len(Receipt._fields) - 6)]
    )
    for unread in (ledger, much):
        weight = LEDGER_BYTES * (1 + unread.extra)
        assert weight / 2 < deep_size(unread) < weight * 2
    assert SENT_BYTES / 2 < deep_size(sent) / 1000 < SENT_BYTES * 2
    remembered = SentMembers(most=MIB)
    for each in range(100):
        few = NOTHING_SENT.plus((room, f"@member{n}:one.example", each) for n in range(5))
        remembered.remember(f"@someone{each}:one.example", "DEVICE", None, SyncToken(number + each, 0), few)
    assert SENT_BYTES / 2 < deep_size(remembered) / remembered.size < SENT_BYTES * 2
    assert STANDING_BYTES / 2 < deep_size(standing) < STANDING_BYTES * 2
    assert RECEIPT_BYTES / 2 < deep_size(receipt) < RECEIPT_BYTES * 2
    assert isinstance(ledger, Ledger) and array("q").itemsize == 8


def test_what_is_known_of_devices_weighs_what_it_is_said_to() -> None:
    for rooms in (0, 10, 300):
        names = frozenset(10**6 + number for number in range(rooms))
        moved = Moved("lists", 10**6, "@someone:one.example", rooms=names)
        assert moved.weight / 2 < deep_size(moved) < moved.weight * 2
    device = ("@someone:one.example", "ABCDEFGHIJ")
    counts = KeyCounts({"signed_curve25519": 49}, ["signed_curve25519"], True)
    entries = OrderedDict([(device, (counts, 10**6))]), OrderedDict([(device, 10**6)])
    assert DEVICE_BYTES / 2 < deep_size(*entries) < DEVICE_BYTES * 2


class NobodysFilters:
    async def get(self, user_id: str, filter_id: str) -> str:
        raise AssertionError("all are in the request")


@pytest.mark.parametrize("types", [1, 80, 700])
async def test_filters_stay_within_their_budget(types: int) -> None:
    """However many there are, and however long."""
    filters = WantedFilters(NobodysFilters(), budget=MIB)
    for number in range(400):
        names = [f"a{number}.{each}" for each in range(types)]
        text = orjson.dumps({"room": {"timeline": {"types": names}}}).decode()
        assert await filters.find("@someone:one.example", text) is await filters.find(
            "@other:one.example", text
        )
    assert MIB / 2 < filters.weight <= MIB
    assert MIB / 4 < deep_size(filters) < 1.5 * MIB


class RulesOfMany:
    """Account data in which everybody has that many rules, none of them like another's."""

    def __init__(self, count: int) -> None:
        self._count = count

    async def get(self, user_id: str, event_type: str, room: int = 0) -> dict[str, Any] | None:
        actions = ["notify", {"set_tweak": "highlight"}]
        names = [f"{user_id}{number}" for number in range(self._count)]
        rules = [{"rule_id": name, "pattern": name, "actions": actions, "enabled": True} for name in names]
        return {"global": {"content": rules}}

    def get_at_once(self, user_id: str, event_type: str) -> None:
        return None

    async def update_managed(self, *_: object) -> None:
        raise AssertionError("nothing is written")


@pytest.mark.parametrize("count", [1, 20, 300])
async def test_push_rules_stay_within_their_budget(count: int) -> None:
    rules = PushRules(RulesOfMany(count), budget=MIB)
    first = await rules.compiled("@u0:one.example")
    for number in range(300):
        await rules.compiled(f"@u{number}:one.example")
    assert MIB / 2 < rules.weight <= MIB
    assert MIB / 4 < deep_size(rules, without=[NO_RULES]) < 2 * MIB
    assert await rules.compiled("@u0:one.example") is not first


def item_of(number: int, body: str) -> Item:
    pdu = {
        "auth_events": [f"${n:043d}" for n in range(3)],
        "content": {"body": body, "msgtype": "m.text"},
        "depth": 1000 + number,
        "hashes": {"sha256": f"{number:043d}"},
        "origin_server_ts": 1_700_000_000_000 + number,
        "prev_events": [f"${number:043d}"],
        "room_id": "!" + "r" * 43,
        "sender": "@someone:one.example",
        "signatures": {"one.example": {"ed25519:1": f"{number:086d}"}},
        "type": "m.room.message",
    }
    data = orjson.dumps(pdu)
    return Item(number, f"${number:043d}", "@someone:one.example", False, orjson.loads(data), len(data))


@pytest.mark.parametrize("length", [20, 2_000, 50_000])
def test_views_of_events_stay_within_their_budget(length: int) -> None:
    views, budget = Views(MIB), MIB
    for number in range(500):
        item = item_of(number, f"{number} " + "x" * length)
        view = views.of(item, "!room")
        assert views.of(item, "!room") is view
        view.text(("content", "body"))
    assert budget / 2 < views.weight <= budget
    assert deep_size(views) < 1.5 * budget
    assert view_weight(item.size) / 3 < deep_size(views.of(item, "!room")) < view_weight(item.size) * 2


def test_what_is_known_of_other_servers_weighs_what_it_is_said_to() -> None:
    sharing, known = Sharing(), KnownKeys()
    board = Board(sharing=sharing, is_ours=lambda _: False, now=now_ms)
    for number in range(300):
        server = f"server{number}.example"
        public_key = number.to_bytes(32)
        known.put([server], [ServerKey(server, f"ed25519:{number}", public_key, 10**12 + number, False)])
        person = board.person(f"@someone{number}:one.example")
        person.own_choice = Choice("Gone fishing", "online", 10**12 + number)
        person.said = View("online", 10**12 + number)
        person.accept("process", person.report)
        sharing.track(person.user_id)
        sharing.loaded(person.user_id, {1000 + number: number, 2000 + number: number})
        board.publish(person, number)
    assert KEY_BYTES / 2 < deep_size(known) / known.size < KEY_BYTES * 2
    assert PERSON_BYTES / 2 < deep_size(board) / 300 < PERSON_BYTES * 2


async def test_rooms_weigh_what_they_are_said_to(database: Database) -> None:
    engine = await Engine.open(database)
    room = await engine.new_room()
    members = [member(f"@member{n}:localhost", "invite", ALICE) for n in range(200)]
    await engine.engine.write(room.room_id, lambda _head: members, users=(ALICE,))
    texts = [message(ALICE, "The quick brown fox jumps over the lazy dog" * 3) for _ in range(50)]
    await engine.engine.write(room.room_id, lambda _head: texts, users=(ALICE,))
    entries = list(room.recent)[-50:]
    shared = [entry.version for entry in entries]
    assert all(isinstance(entry, RoomEvent) for entry in entries)
    events = deep_size(*entries, without=shared) / sum(entry.weight for entry in entries)
    head = room.head
    whole = deep_size(head, without=[head.version]) / head.weight
    assert 0.4 < events < 2
    assert 0.4 < whole < 2


async def test_a_server_far_beyond_its_budget_stays_within_it_and_right(database: Database) -> None:
    """Eighty rooms of some 600 KiB each, events of members included, in a budget that holds ten."""
    engine = await Engine.open(database, budget=BUDGET)
    before = resident_bytes()
    rooms = []
    for number in range(ROOMS):
        more = [member(f"@m{n}:localhost", "invite", ALICE) for n in range(MEMBERS)]
        more.append(Draft("m.room.topic", ALICE, {"topic": f"Topic {number}"}, ""))
        room = await engine.new_room(more=more)
        rooms.append(room.room_id)
        assert engine.cache.weight <= BUDGET
        assert engine.member_events.weight <= BUDGET // 4
    del room
    gc.collect()
    # Budget and a quarter of it for the events of members, twice for what the allocator holds, and what a test takes.
    assert resident_bytes() - before < 2 * 1.25 * BUDGET + 24 * MIB
    assert sum(engine.cache.peek(room_id) is not None for room_id in rooms) < ROOMS / 2
    for number in range(0, ROOMS, 25):
        loaded = await engine.cache.get(rooms[number])
        assert loaded is not None
        assert loaded.head.state["m.room.topic", ""].event.content == {"topic": f"Topic {number}"}
        assert len(loaded.head.members) == MEMBERS + 1


async def test_users_pasts_in_rooms_stay_within_their_budget(database: Database) -> None:
    """However often they came and went."""
    engine = await Engine.open(database)
    gate = RoomGate(
        cache=engine.cache,
        user_rooms=engine.user_rooms,
        memberships=MembershipStore(database),
        events=engine.events,
        state=StateStore(database),
        member_events=engine.member_events,
        budget=10_000,
    )
    room = await engine.new_room()
    users = [f"@u{number}:localhost" for number in range(12)]
    for membership in ("join", "leave", "join"):
        for user in users:
            each = member(user, membership)
            await engine.engine.write(room.room_id, lambda _head, each=each: [each], users=(user,))  # type: ignore[misc]
    for user in users:
        access = await gate.access_room(user, room.room_id)
        assert access.is_joined
        assert gate.weight <= 10_000
    assert gate.weight > 8_000
    known = deep_size(gate._known)
    assert gate.weight / 2 < known < gate.weight * 2
    await gate.access_room(users[-1], room.room_id)
    assert deep_size(gate._known) == known


async def test_members_that_were_sent_are_forgotten_beyond_the_share() -> None:
    kept = SentMembers(most=140)
    for number in range(20):
        sent = NOTHING_SENT.plus((1, f"@m{n}:one.example", n) for n in range(10))
        kept.remember(f"@u{number}:one.example", "D", None, SyncToken(number, 0), sent)
    assert kept.size == 140
    assert kept.recall("@u0:one.example", "D", SyncToken(0, 0)) is NOTHING_SENT
    assert len(kept.recall("@u19:one.example", "D", SyncToken(19, 0)).members) == 10


def test_a_token_weighs_what_it_is_said_to() -> None:
    owner = TokenOwner(*([f"@u{n}:one.example" for n in range(len(TokenOwner.__struct_fields__))]))  # type: ignore[arg-type]
    assert TOKEN_BYTES / 3 < deep_size(owner, bytes(32)) < TOKEN_BYTES * 2
