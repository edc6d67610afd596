# SPDX-License-Identifier: Apache-2.0
"""Lists of devices of other servers' users: read once, kept right by updates, read again when that cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from storage.database import Database, DatabaseUnavailable
from tests.devices.devices_fixture import START, Identity
from tests.devices.test_lists import NOTHING, leave
from tests.federation.devices.neighbourhood import THEIRS, XENIA, YVES, Neighbourhood
from tests.reactor import reactor
from tests.rooms.engine_fixture import ALICE, BOB, member


async def met(database: Database) -> tuple[Neighbourhood, str]:
    """Alice and Xenia share a room, and Xenia's list was read."""
    here = await Neighbourhood.open(database)
    room = await here.process.engine.new_room()
    await here.process.engine.join(room.room_id, XENIA)
    await here.process.log_in(ALICE, "A")
    here.theirs.has(XENIA, "X1")
    await here.query(ALICE, XENIA)
    here.asked()
    return here, room.room_id


async def test_a_list_is_read_once_while_a_room_is_shared(database: Database) -> None:
    here, _ = await met(database)
    here.gains_identity(XENIA)
    answer = await here.query(ALICE, XENIA)
    assert here.asked() == []
    assert set(answer.device_keys[XENIA]) == {"X1"} and answer.failures == {}
    answer = await here.query(ALICE, YVES)
    assert here.asked() == ["keys_query"], "there is no room in which we would hear of changes"
    await here.query(ALICE, YVES)
    assert here.asked() == ["keys_query"]


async def test_what_they_say_of_others_is_not_believed(database: Database) -> None:
    here = await Neighbourhood.open(database)
    here.theirs.devices[XENIA] = {"X1": {"user_id": BOB}, "X2": {}, "X3": 1, "X4": "no"}  # type: ignore[dict-item]
    here.theirs.masters = {ALICE: Identity(ALICE).keys()["master"], XENIA: {"keys": 1}}
    answer = await here.query(ALICE, XENIA)
    assert answer.device_keys == {XENIA: {}} and answer.master_keys == {}


async def test_updates_keep_the_list_right(database: Database) -> None:
    """A new device, a changed one, a deleted one: our users who share the room hear of each."""
    here, _ = await met(database)
    for change in ("new", "changed", "deleted"):
        since = here.process.position
        if change == "deleted":
            del here.theirs.devices[XENIA]["X1"]
            here.theirs.stream_ids[XENIA] += 1
            content = here.theirs.update(XENIA, "X1")
        else:
            device = "X2" if change == "new" else "X1"
            here.theirs.has(XENIA, device, algorithms=[change])
            content = here.theirs.update(XENIA, device, device_display_name=change)
        await here.tell("m.device_list_update", content)
        assert await here.process.changed(ALICE, since) == ({XENIA}, set())
        answer = await here.query(ALICE, XENIA)
        shown = {name: keys["algorithms"] for name, keys in answer.device_keys[XENIA].items()}
        assert shown == {name: keys["algorithms"] for name, keys in here.theirs.devices[XENIA].items()}
    assert here.asked() == []
    await here.tell("m.device_list_update", content)  # delivered twice
    answer = await here.query(ALICE, XENIA)
    assert set(answer.device_keys[XENIA]) == {"X2"} and here.asked() == []


async def test_rooms_they_join_are_known_however_they_came_there(database: Database) -> None:
    """Nobody here need have said that their rooms changed."""
    here, _ = await met(database)
    here.theirs.has(XENIA, "X2")
    await here.tell("m.device_list_update", here.theirs.update(XENIA, "X2"))
    room = await here.process.engine.new_room(BOB)
    await here.process.engine.engine.write(room.room_id, lambda _head: [member(XENIA, "join")])
    since = here.process.position
    here.theirs.has(XENIA, "X3")
    await here.tell("m.device_list_update", here.theirs.update(XENIA, "X3"))
    for user in (ALICE, BOB):
        assert await here.process.changed(user, since) == ({XENIA}, set())


async def test_after_a_gap_the_list_is_read_again(database: Database) -> None:
    """And until that succeeds nothing old is told: the server is asked."""
    here, _ = await met(database)
    for name in ("X2", "X3"):
        here.theirs.has(XENIA, name)
    here.theirs.away = True
    since = here.process.position
    await here.tell("m.device_list_update", here.theirs.update(XENIA, "X3"))
    await here.quiet()
    assert here.asked() == ["user_devices"]
    assert await here.process.changed(ALICE, since) == ({XENIA}, set())
    answer = await here.query(ALICE, XENIA)
    assert set(answer.failures) == {THEIRS} and answer.device_keys == {}
    here.theirs.away = False
    await database.execute("earlier", "UPDATE remote_device_lists SET retry_ts = %s", (START,))
    here.asked()
    since = here.process.position
    here.lists.start()
    while not here.theirs.asked:
        await deferLater(reactor, 0)
    await here.quiet()
    assert here.asked() == ["user_devices"]
    assert await here.process.changed(ALICE, since) == ({XENIA}, set())
    answer = await here.query(ALICE, XENIA)
    assert set(answer.device_keys[XENIA]) == {"X1", "X2", "X3"} and here.asked() == []
    await here.lists.stop()


@pytest.mark.parametrize("before", ["never read", "stale"])
async def test_what_changes_while_a_list_is_read_is_not_hidden_by_it(database: Database, before: str) -> None:
    """The answer was made before the change, and arrives after the update that tells of it."""
    here, room_id = await met(database)
    if before == "stale":
        await leave(here.process, room_id, XENIA)
        await here.process.engine.join(room_id, XENIA)
        user = XENIA
    else:
        await here.process.engine.join(room_id, YVES)
        here.theirs.has(YVES, "X1")
        user = YVES
    told = here.theirs.told = Deferred()
    asking = Deferred.fromCoroutine(here.process.query(ALICE, {user: ()}, 5))
    await asking
    while "user_devices" not in (what for what, _ in here.theirs.asked):
        await deferLater(reactor, 0)
    here.theirs.has(user, "X2")
    await here.tell("m.device_list_update", here.theirs.update(user, "X2"))
    keys = here.gains_identity(user)
    await here.tell("m.signing_key_update", {"user_id": user, "master_key": keys["master"]})
    since = here.process.position
    told.callback(None)
    await here.quiet()
    assert here.asked() == ["keys_query", "user_devices", "user_devices"]
    answer = await here.query(ALICE, user)
    assert here.asked() == [] and set(answer.device_keys[user]) == {"X1", "X2"}
    assert set(answer.master_keys) == {user}
    assert await here.process.changed(ALICE, since) == (({XENIA} if before == "stale" else set()), set())


async def test_what_a_list_has_already_is_told_to_who_asked_before(database: Database) -> None:
    """A client is answered by the server itself, then the list is read, with a change between: nobody told of that."""
    here, room_id = await met(database)
    await here.process.engine.join(room_id, YVES)
    here.theirs.has(YVES, "Y1")
    answer = await here.process.query(ALICE, {YVES: ()}, 5)
    assert set(answer.device_keys[YVES]) == {"Y1"}
    here.theirs.has(YVES, "Y2")
    await here.quiet()
    since = here.process.position
    introduction = {"prev_id": [here.theirs.stream_ids[YVES]]}
    await here.tell("m.device_list_update", here.theirs.update(YVES, "Y1", **introduction))
    assert await here.process.changed(ALICE, since) == NOTHING, (
        "another unit of what was told with that number"
    )
    await here.tell("m.device_list_update", here.theirs.update(YVES, "Y2"))
    assert await here.process.changed(ALICE, since) == ({YVES}, set())
    here.asked()
    answer = await here.query(ALICE, YVES)
    assert set(answer.device_keys[YVES]) == {"Y1", "Y2"} and here.asked() == []


async def test_of_two_who_read_at_once_the_late_one_changes_nothing(database: Database) -> None:
    """The list was read meanwhile by another process, with a change of which the update says nothing new then."""
    here, _ = await met(database)
    late = here.theirs.told = Deferred()
    here.lists.read_soon((XENIA,))
    while not here.theirs.asked:
        await deferLater(reactor, 0)
    here.theirs.has(XENIA, "X2")
    another = await Neighbourhood.open(database, here.theirs)
    await another.lists._read(XENIA)
    await here.tell("m.device_list_update", here.theirs.update(XENIA, "X2"))
    late.callback(None)
    await here.quiet()
    answer = await here.query(ALICE, XENIA)
    assert set(answer.device_keys[XENIA]) == {"X1", "X2"}


async def test_signing_keys_that_change_while_a_list_is_read_are_not_hidden_by_it(database: Database) -> None:
    here, room_id = await met(database)
    here.gains_identity(XENIA, "1")
    await leave(here.process, room_id, XENIA)
    await here.process.engine.join(room_id, XENIA)
    told = here.theirs.told = Deferred()
    await here.process.query(ALICE, {XENIA: ()}, 5)
    while "user_devices" not in (what for what, _ in here.theirs.asked):
        await deferLater(reactor, 0)
    keys = here.gains_identity(XENIA, "2")
    content = {"user_id": XENIA, "master_key": keys["master"], "self_signing_key": keys["self_signing"]}
    await here.tell("m.signing_key_update", content)
    told.callback(None)
    await here.quiet()
    here.asked()
    answer = await here.query(ALICE, XENIA)
    assert here.asked() == []
    assert answer.master_keys[XENIA]["keys"] == keys["master"]["keys"]  # type: ignore[index]


async def test_a_reader_who_is_late_leaves_what_was_updated_meanwhile(database: Database) -> None:
    """Two processes read a list at a time, and the first is through, when an update arrives."""
    here, _ = await met(database)
    late = here.theirs.told = Deferred()
    here.lists.read_soon((XENIA,))
    while not here.theirs.asked:
        await deferLater(reactor, 0)
    here.theirs.has(XENIA, "X2")
    await here.tell("m.device_list_update", here.theirs.update(XENIA, "X2"))
    late.callback(None)
    await here.quiet()
    answer = await here.query(ALICE, XENIA)
    assert set(answer.device_keys[XENIA]) == {"X1", "X2"} and here.asked() == ["user_devices"]


@pytest.mark.parametrize("who", [XENIA, ALICE])
async def test_a_list_that_is_read_out_of_sight_is_not_believed(database: Database, who: str) -> None:
    """Whoever asked for it has left, or the user, before it was read; nobody tells us what comes after it."""
    here, room_id = await met(database)
    await leave(here.process, room_id, who)
    here.lists.read_soon((XENIA,))
    await here.quiet()
    assert here.asked() == ["user_devices"]
    await here.process.engine.join(room_id, who)
    here.theirs.has(XENIA, "X2")
    answer = await here.query(ALICE, XENIA)
    assert set(answer.device_keys[XENIA]) == {"X1", "X2"}


async def test_an_update_that_names_none_before_it_does_not_hide_what_was_missed(database: Database) -> None:
    """Servers introduce their users so; the list may have changed while nobody told us."""
    here, _ = await met(database)
    for name in ("X2", "X3"):
        here.theirs.has(XENIA, name)
    for name in ("X2", "X3"):
        await here.tell("m.device_list_update", here.theirs.update(XENIA, name, prev_id=[]))
    await here.quiet()
    assert set(here.asked()) == {"user_devices"}
    answer = await here.query(ALICE, XENIA)
    assert set(answer.device_keys[XENIA]) == {"X1", "X2", "X3"} and here.asked() == []


@pytest.mark.parametrize("who", [XENIA, ALICE])
async def test_who_goes_out_of_sight_is_not_believed_any_more(database: Database, who: str) -> None:
    """Whether they left or the last of ours did: changes are not heard of then."""
    here, room_id = await met(database)
    await leave(here.process, room_id, who)
    await here.process.engine.join(room_id, who)
    here.theirs.has(XENIA, "X2")
    answer = await here.query(ALICE, XENIA)
    assert set(answer.device_keys[XENIA]) == {"X1", "X2"}
    assert here.asked() == ["keys_query", "user_devices"]


async def test_many_lists_that_cannot_be_read_at_once_are_left_to_the_rounds(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database refuses at once when too much waits for it."""
    here, _ = await met(database)

    async def refuse(_user_id: str) -> None:
        raise DatabaseUnavailable

    monkeypatch.setattr(here.lists._store, "begin", refuse)
    here.lists.read_soon([f"@u{number}:{THEIRS}" for number in range(1000)])
    assert not here.lists._waiting and not here.lists._reading and not here.lists._named


async def test_who_shares_no_room_cannot_make_us_write(database: Database) -> None:
    here, _ = await met(database)
    here.theirs.has(YVES, "Y1")
    at = here.process.position
    await here.tell("m.device_list_update", here.theirs.update(YVES, "Y1"))
    keys = here.gains_identity(YVES)
    await here.tell("m.signing_key_update", {"user_id": YVES, "master_key": keys["master"]})
    assert here.process.position == at
    for table in ("remote_device_lists", "device_list_dues"):
        rows = await database.fetch("rows", f"SELECT 1 FROM {table} WHERE user_id = %s", (YVES,))
        assert rows == []


async def test_only_a_users_own_server_is_believed(database: Database) -> None:
    here, _ = await met(database)
    here.theirs.has(XENIA, "X2")
    at = here.process.position
    update = here.theirs.update(XENIA, "X2")
    master = Identity(XENIA).keys()["master"]
    await here.tell("m.device_list_update", update, origin="evil.example")
    await here.tell("m.signing_key_update", {"user_id": XENIA, "master_key": master}, origin="evil.example")
    await here.tell(
        "m.signing_key_update", {"user_id": ALICE, "master_key": Identity(ALICE).keys()["master"]}
    )
    for name, value in (
        ("user_id", 1),
        ("user_id", ALICE),
        ("device_id", None),
        ("device_id", ""),
        ("device_id", "a\0"),
        ("device_id", "x" * 300),
        ("stream_id", "1"),
        ("stream_id", True),
        ("stream_id", 2**70),
        ("prev_id", "1"),
        ("prev_id", [None]),
    ):
        await here.tell("m.device_list_update", {**update, name: value})
    assert here.process.position == at
    await here.quiet()


async def test_their_cross_signing_keys_are_kept_with_the_list(database: Database) -> None:
    here, _ = await met(database)
    keys: Any = here.gains_identity(XENIA)
    since = here.process.position
    content = {"user_id": XENIA, "master_key": keys["master"], "self_signing_key": keys["self_signing"]}
    await here.tell("m.signing_key_update", content)
    assert await here.process.changed(ALICE, since) == ({XENIA}, set())
    answer = await here.query(ALICE, XENIA)
    assert answer.master_keys == {XENIA: keys["master"]} and here.asked() == []
    alice = Identity(ALICE)
    await here.process.devices.cross_signing.upload(ALICE, alice.keys(), None)
    public = Identity(XENIA).public("master")
    signed = alice.signs(keys["master"], "user_signing")
    assert await here.process.devices.signatures.upload(ALICE, {XENIA: {public: signed}}) == {}
    answer = await here.query(ALICE, XENIA)
    assert set(answer.master_keys[XENIA]["signatures"]) == {ALICE}
    assert "signatures" not in (await here.query(BOB, XENIA)).master_keys[XENIA]
    await here.quiet()
