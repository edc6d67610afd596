# SPDX-License-Identifier: Apache-2.0
"""Telling other servers of our users' devices, and messages both ways."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from federation.devices.announcing import RETRY_SECONDS
from homeserver.devices.messages import digest
from storage.database import Database, DatabaseUnavailable, Transaction
from storage.device_lists import DeviceListStore
from tests.devices.devices_fixture import Identity
from tests.devices.test_messages import Client
from tests.federation.devices.neighbourhood import THEIRS, XENIA, YVES, Neighbourhood
from tests.rooms.engine_fixture import ALICE, BOB


def _updates(here: Neighbourhood) -> list[dict[str, Any]]:
    return [dict(edu.content) for edu in here.outbox.taken() if edu.edu_type == "m.device_list_update"]


async def test_each_change_is_announced_and_names_the_one_before(database: Database) -> None:
    here = await Neighbourhood.open(database)
    phone = await here.process.log_in(ALICE, "PHONE", "Phone")
    await here.process.upload(phone)
    await here.quiet()
    (first,) = _updates(here)
    assert first == {
        "user_id": ALICE,
        "device_id": "PHONE",
        "device_display_name": "Phone",
        "stream_id": 1,
        "prev_id": [],
        "keys": phone.keys(),
    }
    for stream_id, statement in (
        (2, "UPDATE devices SET display_name = 'Telephone'"),
        (3, "DELETE FROM devices"),
    ):
        since = here.process.position
        await database.execute("change", statement)
        await here.process.moved_on(since)
        await here.quiet()
        (update,) = _updates(here)
        assert (update["stream_id"], update["prev_id"]) == (stream_id, [stream_id - 1])
    assert update == {"user_id": ALICE, "device_id": "PHONE", "stream_id": 3, "prev_id": [2], "deleted": True}
    assert (await here.process.devices.stored_keys.devices_for_server(ALICE)).stream_id == 3


async def test_what_could_not_be_announced_is_announced_later(database: Database) -> None:
    """Also what another process left; several changes at once are a chain."""
    here = await Neighbourhood.open(database)
    here.outbox.failing = True
    for name in ("A1", "A2"):
        await here.process.upload(await here.process.log_in(ALICE, name))
    await here.quiet()
    await here.process.log_in(BOB, "B1")
    await database.execute("two", "UPDATE devices SET display_name = 'new' WHERE user_id = %s", (ALICE,))
    await here.process.devices.lists.settle((ALICE,))
    await here.quiet()
    other = await Neighbourhood.open(database)
    other.announcer.start()
    await other.quiet()
    updates = _updates(other)
    assert [update["stream_id"] for update in updates] == [1, 2, 3, 4]
    assert [update["prev_id"] for update in updates] == [[], [1], [2], [3]]
    await other.announcer.stop()


async def test_a_database_that_takes_nothing_for_a_while_stops_no_announcement(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses at once when too much waits for it."""
    here = await Neighbourhood.open(database)

    async def refuse(*_args: object) -> None:
        raise DatabaseUnavailable

    with monkeypatch.context() as overloaded:
        overloaded.setattr(database, "transaction", refuse)
        here.announcer.due()
    await here.process.upload(await here.process.log_in(ALICE, "PHONE"))
    await here.quiet()
    assert len(_updates(here)) == 1


class _Elsewhere:
    """Another process that has read what it announces and is not done with it."""

    def __init__(self, database: Database) -> None:
        self._store = DeviceListStore(database)
        self._begun: Deferred[None] = Deferred()
        self._finish: Deferred[None] = Deferred()
        self._done = Deferred.fromCoroutine(database.transaction("elsewhere", self._announce))

    @classmethod
    async def begin(cls, database: Database) -> _Elsewhere:
        elsewhere = cls(database)
        await elsewhere._begun
        return elsewhere

    async def end(self) -> None:
        self._finish.callback(None)
        await self._done

    async def _announce(self, txn: Transaction) -> None:
        assert await self._store.lock_announcing_txn(txn)
        assert await self._store.announcements_txn(txn, 1) == []
        self._begun.callback(None)
        await self._finish


async def test_what_is_due_while_another_process_announces_is_tried_until_it_is_done(
    database: Database,
) -> None:
    """The other does not look again; the round would find it much later."""
    here = await Neighbourhood.open(database)
    elsewhere = await _Elsewhere.begin(database)
    await here.process.upload(await here.process.log_in(ALICE, "PHONE"))
    await here.quiet()
    here.clock.advance(RETRY_SECONDS)
    await here.quiet()
    assert _updates(here) == []
    await elsewhere.end()
    here.clock.advance(RETRY_SECONDS)
    await here.quiet()
    assert len(_updates(here)) == 1
    assert here.clock.getDelayedCalls() == []


async def test_whoever_stops_does_not_wait_for_the_turn_to_announce(database: Database) -> None:
    """Neither what was due before nor what becomes due meanwhile; the next round of another process has it."""
    here = await Neighbourhood.open(database)
    elsewhere = await _Elsewhere.begin(database)
    await here.process.upload(await here.process.log_in(ALICE, "PHONE"))
    await here.quiet()
    assert len(here.clock.getDelayedCalls()) == 1
    here.announcer.due()
    await here.announcer.stop()
    assert here.clock.getDelayedCalls() == []
    await elsewhere.end()
    here.announcer.due()
    await here.quiet()
    assert _updates(here) == []


async def test_cross_signing_keys_are_announced_without_the_private_one(database: Database) -> None:
    here = await Neighbourhood.open(database)
    phone, identity = await here.process.log_in(ALICE, "PHONE"), Identity(ALICE)
    await here.process.upload(phone)
    await here.process.devices.cross_signing.upload(ALICE, identity.keys(), None)
    await here.quiet()
    edus = here.outbox.taken()
    assert [(edu.destination, edu.edu_type) for edu in edus] == [
        (THEIRS, "m.device_list_update"),
        (THEIRS, "m.signing_key_update"),
    ]
    keys = identity.keys()
    assert edus[1].content == {
        "user_id": ALICE,
        "master_key": keys["master"],
        "self_signing_key": keys["self_signing"],
    }
    signed = identity.signs(phone.keys(), "self_signing")
    assert await here.process.devices.signatures.upload(ALICE, {ALICE: {"PHONE": signed}}) == {}
    await here.quiet()
    (update,) = _updates(here)
    assert identity.key("self_signing").key_id in update["keys"]["signatures"][ALICE]
    await here.announcer.introduce([ALICE], ["new.example"])
    (introduction,) = here.outbox.taken()
    assert introduction.content == {**update, "prev_id": []} and introduction.destination == "new.example"


async def test_where_there_are_no_neighbours_nothing_is_left_to_announce(database: Database) -> None:
    here = await Neighbourhood.open(database)
    here.neighbours.servers = set()
    await here.process.upload(await here.process.log_in(ALICE, "PHONE"))
    await here.quiet()
    assert here.outbox.taken() == []
    assert await database.fetch("left", "SELECT * FROM device_list_announcements") == []


async def test_messages_go_out_by_server_in_units_that_are_not_too_large(database: Database) -> None:
    """A repeated request gives the same ids, by which the receiver knows it."""
    here = await Neighbourhood.open(database)
    large = {"x": "y" * 40_000}
    contents: dict[str, Any] = {
        XENIA: {"X1": large, "X2": large},
        "@z:third.example": {"*": {}},
        YVES: {"Y": {}},
    }
    ids = []
    for _ in range(2):
        await here.process.devices.to_device.send(ALICE, "m.test", contents, digest("t"))
        await database.execute("forget", "DELETE FROM to_device_transactions")
        edus = here.outbox.taken()
        assert [edu.destination for edu in edus] == [THEIRS, THEIRS, "third.example"]
        assert all(edu.content["sender"] == ALICE and len(edu.content["message_id"]) == 32 for edu in edus)
        assert [edu.content["messages"] for edu in edus] == [
            {XENIA: {"X1": large}},
            {XENIA: {"X2": large}, YVES: {"Y": {}}},
            {"@z:third.example": {"*": {}}},
        ]
        ids.append([edu.content["message_id"] for edu in edus])
    assert ids[0] == ids[1] and len(set(ids[0])) == 3


async def test_their_messages_reach_our_devices_once_and_only_from_their_users(database: Database) -> None:
    here = await Neighbourhood.open(database)
    await here.process.log_in(ALICE, "A")
    unit: dict[str, Any] = {
        "sender": XENIA,
        "type": "m.test",
        "message_id": "one",
        "messages": {ALICE: {"A": {"n": 1}, "GONE": {"n": 2}}, YVES: {"Y": {"n": 3}}},
    }
    for _ in range(2):
        await here.tell("m.direct_to_device", unit)
    bad: dict[str, Any]
    for bad in (
        {"sender": ALICE},
        {"sender": 1},
        {"sender": "@x:third.example"},
        {"type": None},
        {"type": "a\0b"},
        {"message_id": ""},
        {"message_id": "x" * 300},
        {"messages": []},
        {"messages": {ALICE: {"A": []}}},
        {"messages": {ALICE: []}},
        {"messages": {ALICE: {"A": {"n": 2**70}}}},
        {"messages": {ALICE: {"A": {"x": "y" * 70_000}}}},
    ):
        await here.tell("m.direct_to_device", {**unit, "message_id": "two", **bad})
    client = Client(here.process, ALICE, "A")
    events = await client.sync()
    assert events == [{"sender": XENIA, "type": "m.test", "content": {"n": 1}}]


async def test_one_time_keys_are_claimed_where_the_users_are(database: Database) -> None:
    """Each device gets at most the one key that was asked for, if it looks like one."""
    here = await Neighbourhood.open(database)
    key = {"signed_curve25519:AAAA": {"key": "k", "signatures": {}}}
    here.theirs.one_time_keys = {
        XENIA: {"X1": key, "X2": {"signed_curve25519:B": 1}, "UNASKED": key},
        ALICE: {"A": key},
    }
    wanted = {XENIA: {"X1": "signed_curve25519", "X2": "signed_curve25519"}, YVES: {"Y": "x"}}
    answer = await here.process.devices.claim.claim(wanted, 5)
    assert answer.one_time_keys == {XENIA: {"X1": key}} and answer.failures == {}
    here.theirs.away = True
    answer = await here.process.devices.claim.claim(wanted, 5)
    assert answer.one_time_keys == {} and set(answer.failures) == {THEIRS}
