# SPDX-License-Identifier: Apache-2.0
"""Account data, receipts, typing, presence, counts and a device's own sections."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
import pytest

from homeserver.protocol.filters import SyncFilter
from homeserver.protocol.tokens import SyncToken
from homeserver.sync.beside import NewsDesk, Providers
from homeserver.sync.providers import ExtensionNews
from homeserver.sync.request import SyncRequest, Window
from homeserver.sync.response import whole
from homeserver.sync.survey import Survey
from homeserver.unread.counts import Counts, UnreadCounts
from storage.database import Database
from tests.rooms.engine_fixture import ALICE, BOB
from tests.sync.fakes import Fakes
from tests.sync.sync_fixture import Process, types


async def test_news_beside_events_is_told_once(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room()
    alice = process.client()
    await alice.sync()
    fakes = process.fakes
    fakes.account_data.kept[ALICE, room.key, "m.tag"] = (await process.touch(ALICE), {"tags": {}})
    fakes.account_data.kept[ALICE, 0, "m.direct"] = (await process.touch(ALICE), {})
    fakes.receipts.told.append((await process.touch(ALICE), room.key, {"$e": {}}))
    fakes.typing.set(room.key, BOB)
    fakes.presence.set(BOB, "online")
    await alice.sync()
    entry = alice.room(room.room_id)
    assert entry["timeline"] == {"events": [], "limited": False} and entry["state"] == {"events": []}
    assert entry["account_data"]["events"] == [{"type": "m.tag", "content": {"tags": {}}}]
    assert entry["ephemeral"]["events"] == [
        {"type": "m.receipt", "content": {"$e": {}}},
        {"type": "m.typing", "content": {"user_ids": [BOB]}},
    ]
    assert types(alice.last["account_data"]["events"]) == ["m.direct"]
    assert types(alice.last["presence"]["events"]) == ["m.presence"]
    await alice.sync()
    assert not alice.has_news
    fakes.typing.set(room.key)
    await alice.sync()
    assert alice.room(room.room_id)["ephemeral"]["events"] == [
        {"type": "m.typing", "content": {"user_ids": []}}
    ]


@pytest.mark.parametrize("lead", [0, 1, 500])
async def test_who_comes_from_a_process_that_is_ahead_misses_nothing(database: Database, lead: int) -> None:
    """What is applied once they are here is news, though the token is of the same millisecond or a later one."""
    process = await Process.open(database)
    room = await process.engine.new_room()
    alice = process.client()
    await alice.sync()
    assert alice.since is not None
    alice.since = alice.since._replace(ephemeral=process.clock.current + lead)
    await alice.sync()
    assert not alice.has_news
    process.fakes.typing.set(room.key, BOB)
    process.fakes.presence.set(BOB, "online")
    await alice.sync()
    assert types(alice.room(room.room_id)["ephemeral"]["events"]) == ["m.typing"]
    assert types(alice.last["presence"]["events"]) == ["m.presence"]
    await alice.sync()
    assert not alice.has_news


async def test_account_data_is_not_asked_for_when_nothing_of_the_user_moved(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room()
    alice = process.client()
    await alice.sync()
    asked = process.fakes.account_data.asked
    await process.send(room.room_id, ALICE, "x")
    await alice.sync()
    assert process.fakes.account_data.asked == asked


async def test_a_room_that_is_new_to_the_client_brings_what_is_old(database: Database) -> None:
    """Receipts, tags and typing notices from before the join."""
    process = await Process.open(database)
    room = await process.engine.new_room()
    process.fakes.receipts.told.append((process.engine.stream.position, room.key, {"$e": {}}))
    process.fakes.account_data.kept[BOB, room.key, "m.tag"] = (process.engine.stream.position, {})
    process.fakes.typing.set(room.key, ALICE)
    bob = process.client(BOB)
    await bob.sync()
    assert bob.last["rooms"]["join"] == {}
    await process.engine.join(room.room_id, BOB)
    await bob.sync()
    entry = bob.room(room.room_id)
    assert types(entry["ephemeral"]["events"]) == ["m.receipt", "m.typing"]
    assert types(entry["account_data"]["events"]) == ["m.tag"]


async def test_unread_counts_are_given_whole_or_by_thread(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room()
    counts = UnreadCounts(Counts(5, 2), Counts(3, 1), {"$root": Counts(2, 1)})
    process.fakes.unread.kept[ALICE, room.key] = counts
    alice = process.client()
    await alice.sync()
    entry = alice.room(room.room_id)
    assert entry["unread_notifications"] == {"highlight_count": 2, "notification_count": 5}
    assert "unread_thread_notifications" not in entry
    alice = process.client(
        filter=SyncFilter.parse({"room": {"timeline": {"unread_thread_notifications": True}}})
    )
    await alice.sync()
    entry = alice.room(room.room_id)
    assert entry["unread_notifications"] == {"highlight_count": 1, "notification_count": 3}
    assert entry["unread_thread_notifications"] == {"$root": {"highlight_count": 1, "notification_count": 2}}


class Letters:
    """An extension with one message for each device."""

    stands = False

    async def changed(
        self, user_id: str, device_id: str | None, since: SyncToken | None, upto: int
    ) -> ExtensionNews:
        letter = orjson.dumps(
            {"events": [{"type": "m.letter", "sender": user_id, "content": {"to": device_id}}]}
        )
        return ExtensionNews({"to_device": letter}, since is None or since.position < 5 <= upto)

    def at_once(
        self, user_id: str, device_id: str | None, since: SyncToken, upto: int, rooms: Sequence[int]
    ) -> ExtensionNews | None:
        return None

    def is_acknowledged(self, user_id: str, device_id: str | None, since: SyncToken) -> bool:
        return False

    async def acknowledge(self, user_id: str, device_id: str | None, since: SyncToken) -> None:
        raise AssertionError("nobody acknowledges here")


async def test_a_devices_own_sections_are_supplied_by_extensions() -> None:
    fakes = Fakes.make(None)  # type: ignore[arg-type]
    providers = Providers(
        receipts=fakes.receipts,
        account_data=fakes.account_data,
        invites=fakes.account_data,
        typing=fakes.typing,
        presence=fakes.presence,
        unread=fakes.unread,
        extensions=(Letters(),),
    )

    class Never:
        def may_have_changed(self, key: str, since: int) -> bool:
            return False

    window = Window(SyncRequest(user_id=ALICE, device_id="D"), 5, 0, frozenset())
    news = await NewsDesk(providers, Never()).gather(window, Survey())
    assert news.extensions_have_news
    body = orjson.loads(whole(SyncToken(5), extensions=news.extensions))
    assert body["to_device"]["events"][0]["content"] == {"to": "D"}
    assert body["device_lists"] == {"changed": [], "left": []}
