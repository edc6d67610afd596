# SPDX-License-Identifier: Apache-2.0
"""Typing, receipts and presence of other servers: what is believed of them (CVE-2023-42453, CVE-2024-6301), and by whom
it is seen."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.task import Clock, deferLater

from federation.edus.presence import MOST_USERS, PresenceEdus
from federation.edus.receipts import MOST_RECEIPTS, MOST_ROOMS, ReceiptEdus
from federation.edus.typing import TypingEdus
from homeserver.account_data import AccountData, UserDataCache
from homeserver.presence import Board, Presence, Sharing
from homeserver.presence import NobodyElsewhere as NoPresenceElsewhere
from homeserver.receipts import NobodyElsewhere as NoReceiptsElsewhere
from homeserver.receipts import Receipts, RecentReceipts, RemoteReceipts
from homeserver.rooms.engine import Draft, Room
from homeserver.stream.ephemeral import EphemeralClock
from homeserver.typing import NobodyElsewhere as NoTypingElsewhere
from homeserver.typing import Typing, TypingNews
from homeserver.web.hearing import NoOthers
from storage.account_data import AccountDataStore
from storage.database import Database
from storage.presence import PresenceStore
from storage.receipts import ReceiptStore
from tests.reactor import reactor
from tests.rooms.engine_fixture import ALICE, Engine

THERE = "there.test"
USER, STRANGER, OTHERS = f"@u:{THERE}", f"@stranger:{THERE}", "@u:elsewhere.test"
START = 1_700_000_000

ODD: list[Any] = [None, True, 1, 1.5, "", "x", "\0", "\ud800", [], [[]], {}, {"": {}}, "a" * 300, 10**30]


@dataclass
class Process:
    """One process that hears of other servers."""

    engine: Engine
    time: Clock
    typing_news: TypingNews
    typing: TypingEdus
    receipts_seen: Receipts
    receipts: ReceiptEdus
    presence_seen: Presence
    board: Board
    presence: PresenceEdus
    told: list[str]

    @classmethod
    async def open(cls, database: Database) -> Process:
        engine, time, told = await Engine.open(database), Clock(), list[str]()
        time.advance(START)
        stream = engine.stream

        def now() -> int:
            return int(time.seconds() * 1000)

        async def notify(_channel: str, payload: str) -> None:
            told.append(payload)

        async def notify_all(_channel: str, payloads: Sequence[str]) -> None:
            told.extend(payloads)

        clock = EphemeralClock(now)
        news = TypingNews(
            origin="test",
            clock=clock,
            scheduler=time,
            cache=engine.cache,
            listeners=stream.listeners,
            readers=lambda _: stream.listeners.users,
            notify=notify,
            others=NoOthers(),
            elsewhere=NoTypingElsewhere(),
        )
        typing = Typing(gate=engine.gate, news=news, elsewhere=NoTypingElsewhere())
        recent, kept = RecentReceipts(stream.position, lambda _: ()), UserDataCache()
        receipts = Receipts(
            store=ReceiptStore(database),
            recent=recent,
            committer=engine.committer,
            gate=engine.gate,
            events=engine.events,
            account_data=AccountData(
                store=AccountDataStore(database),
                committer=engine.committer,
                moved=stream.users,
                user_rooms=engine.user_rooms,
                cache=kept,
            ),
            readers=lambda _: (),
            elsewhere=NoReceiptsElsewhere(),
            now=now,
        )
        remote = RemoteReceipts(
            receipts=receipts, events=engine.events, store=ReceiptStore(database), now=now
        )
        sharing = Sharing()
        board = Board(sharing=sharing, is_ours=lambda user_id: user_id.endswith(":localhost"), now=now)
        presence = Presence(
            enabled=True,
            origin=secrets.token_hex(4),
            board=board,
            sharing=sharing,
            store=PresenceStore(database),
            user_rooms=engine.user_rooms,
            listeners=stream.listeners,
            elsewhere=NoPresenceElsewhere(),
            notify=notify_all,
            others=NoOthers(),
            scheduler=time,
            clock=clock,
            now=now,
        )
        for subscriber in (recent, kept, news, sharing):
            stream.subscribe(subscriber)
        await presence.start()
        told.clear()
        return cls(
            engine,
            time,
            news,
            TypingEdus(server_name="localhost", rooms=engine.cache, typing=typing),
            receipts,
            ReceiptEdus(server_name="localhost", rooms=engine.cache, receipts=remote),
            presence,
            board,
            PresenceEdus(presence=presence),
            told,
        )

    async def room(self, *users: str, **how: Any) -> Room:
        room = await self.engine.new_room(**how)
        await self.engine.join(room.room_id, *users)
        return room

    async def forbid(self, room: Room) -> None:
        """The room shuts the other server out."""
        acl = Draft("m.room.server_acl", ALICE, {"allow": ["*"], "deny": [THERE]}, "")
        await self.engine.engine.write(room.room_id, lambda _: [acl], users=(ALICE,))

    async def read(self, room: Room) -> dict[str, Any]:
        """The receipts Alice sees."""
        changed = await self.receipts_seen.changed(ALICE, [room.key], 0, self.engine.stream.position)
        return changed.get(room.key, {})

    async def about(self) -> dict[str, Any]:
        """The presence Alice sees, once what is new is published."""
        self.presence_seen.seen(ALICE, "D", "online")
        await self.pass_time(5)
        return {
            event["sender"]: event["content"]
            for event in self.presence_seen.changed(ALICE, 0)
            if event["sender"] != ALICE
        }

    async def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.time.advance(1)
            while self.presence_seen._flushing:
                await deferLater(reactor, 0)


def typing(room: Room, user: str = USER, *, is_typing: bool = True) -> dict[str, Any]:
    return {"room_id": room.room_id, "user_id": user, "typing": is_typing}


def receipt(event_id: Any, user: str = USER, *, ts: Any = 1000, **data: Any) -> dict[str, Any]:
    return {"m.read": {user: {"event_ids": [event_id], "data": {"ts": ts, **data}}}}


async def test_their_users_type_and_stop(database: Database) -> None:
    """Or are forgotten after a minute."""
    process = await Process.open(database)
    room = await process.room(USER)
    await process.typing.receive(THERE, typing(room))
    assert process.typing_news.in_room(room.key) == [USER]
    await process.typing.receive(THERE, typing(room, is_typing=False))
    assert process.typing_news.in_room(room.key) == []
    await process.typing.receive(THERE, typing(room))
    process.time.advance(60)
    assert process.typing_news.in_room(room.key) == []
    await process.presence_seen.stop()


async def test_nobody_types_for_another_server_or_where_they_are_not(database: Database) -> None:
    """Nor where the room shuts their server out, nor in a room nobody knows; oddities are dropped."""
    process = await Process.open(database)
    room, forbidden = await process.room(USER, OTHERS), await process.room(USER)
    await process.forbid(forbidden)
    for content in (
        typing(room, OTHERS),
        typing(room, ALICE),
        typing(room, STRANGER),
        typing(forbidden),
        typing(room) | {"room_id": "!unknown:there.test"},
        *(
            typing(room) | {name: odd}
            for name in ("room_id", "user_id", "typing")
            for odd in ODD
            if odd is not True
        ),
        {},
    ):
        await process.typing.receive(THERE, content)
    assert process.typing_news.in_room(room.key) == process.typing_news.in_room(forbidden.key) == []
    assert process.told == []
    await process.presence_seen.stop()


async def test_their_users_read(database: Database) -> None:
    """In threads too; receipts only move on, and have no time of the future."""
    process = await Process.open(database)
    room = await process.room(USER)
    events = [await process.engine.send(room.room_id, ALICE, str(n)) for n in range(3)]
    relation = {"m.relates_to": {"rel_type": "m.thread", "event_id": events[0]}}
    threaded = Draft("m.room.message", ALICE, {"body": "in a thread", **relation})
    in_thread = (await process.engine.engine.write(room.room_id, lambda _: [threaded], users=())).event_id
    await process.receipts.receive(THERE, {room.room_id: receipt(events[1], ts=10**15)})
    await process.receipts.receive(THERE, {room.room_id: receipt(events[0])})
    await process.receipts.receive(THERE, {room.room_id: receipt(in_thread, thread_id=events[0])})
    await process.receipts.receive(THERE, {room.room_id: receipt(in_thread, thread_id=events[1])})
    await process.receipts.receive(THERE, {room.room_id: receipt(events[2], thread_id="main", ts=5)})
    assert await process.read(room) == {
        events[1]: {"m.read": {USER: {"ts": START * 1000}}},
        in_thread: {"m.read": {USER: {"ts": 1000, "thread_id": events[0]}}},
        events[2]: {"m.read": {USER: {"ts": 5, "thread_id": "main"}}},
    }
    await process.presence_seen.stop()


async def test_nobody_reads_for_another_server_or_what_they_cannot_see(database: Database) -> None:
    """Receipts are forged for nobody, private ones do not travel, and events of other rooms or nowhere are not read."""
    process = await Process.open(database)
    hidden = await process.room(visibility="joined")
    unseen = await process.engine.send(hidden.room_id, ALICE, "before they came")
    await process.engine.join(hidden.room_id, USER)
    room, forbidden = await process.room(USER, OTHERS), await process.room(USER)
    event = await process.engine.send(room.room_id, ALICE, "hello")
    foreign = await process.engine.send(forbidden.room_id, ALICE, "hello")
    await process.forbid(forbidden)
    at = process.engine.stream.position
    good = receipt(event)["m.read"][USER]
    for content in (
        {room.room_id: receipt(event, OTHERS)},
        {room.room_id: receipt(event, ALICE)},
        {room.room_id: receipt(event, STRANGER)},
        {room.room_id: receipt(foreign)},
        {room.room_id: receipt("$nowhere")},
        {room.room_id: {"m.read.private": {USER: good}}},
        {forbidden.room_id: receipt(foreign)},
        {hidden.room_id: receipt(unseen)},
        {"!unknown:there.test": receipt(event)},
        *({room.room_id: receipt(event, thread_id=odd)} for odd in ODD if odd is not None),
        *({room.room_id: receipt(odd)} for odd in ODD),
        *({room.room_id: {"m.read": {USER: good | {"event_ids": odd}}}} for odd in ODD),
        *({room.room_id: {"m.read": {USER: odd}}} for odd in ODD),
        *({room.room_id: {"m.read": odd}} for odd in ODD),
        *({room.room_id: odd} for odd in ODD),
        *({odd: receipt(event)} for odd in ODD if isinstance(odd, str)),
        *({room.room_id: {"m.read": {odd: good}}} for odd in ODD if isinstance(odd, str)),
    ):
        await process.receipts.receive(THERE, content)
    assert process.engine.stream.position == at
    assert await process.read(room) == await process.read(hidden) == await process.read(forbidden) == {}
    await process.presence_seen.stop()


async def test_a_unit_of_receipts_is_looked_at_only_so_far(database: Database) -> None:
    """What is beyond the bounds is left out, and the number of queries is the same as for one."""
    process = await Process.open(database)
    room = await process.room(USER)
    event = await process.engine.send(room.room_id, ALICE, "hello")
    strangers = {f"@u{n}:{THERE}": receipt(event)["m.read"][USER] for n in range(MOST_RECEIPTS)}
    await process.receipts.receive(THERE, {room.room_id: {"m.read": strangers | receipt(event)["m.read"]}})
    assert await process.read(room) == {}
    rooms = {f"!r{n}:{THERE}": receipt(event) for n in range(MOST_ROOMS)}
    await process.receipts.receive(THERE, {**rooms, room.room_id: receipt(event)})
    assert await process.read(room) == {}
    await process.presence_seen.stop()


async def test_their_users_are_about(database: Database) -> None:
    """As their server says last; silence for long is absence, and then they are forgotten."""
    process = await Process.open(database)
    await process.room(USER)
    update = {"user_id": USER, "presence": "online", "last_active_ago": 2000, "status_msg": "hi"}
    await process.presence.receive(THERE, {"push": [update, {**update, "presence": "unavailable"}]})
    await process.presence.receive(THERE, {"push": [update]})
    seen = (await process.about())[USER]
    assert (seen["presence"], seen["status_msg"], seen["currently_active"]) == ("online", "hi", True)
    assert 2000 <= seen["last_active_ago"] <= 7000
    assert process.told == [], "there is no other process"
    await process.presence.receive(THERE, {"push": [{**update, "presence": "unavailable"}]})
    assert (await process.about())[USER]["presence"] == "unavailable"
    await process.pass_time(2200)
    assert await process.about() == {}
    await process.pass_time(4000)
    assert process.board.get(USER) is None
    assert process.board.remote_count == 0
    await process.presence_seen.stop()


async def test_nobody_is_about_for_another_server_or_unknown_to_all(database: Database) -> None:
    """Of strangers nothing is kept, nor is anything believed of this server's users."""
    process = await Process.open(database)
    await process.room(USER, OTHERS)
    update = {"user_id": USER, "presence": "online", "last_active_ago": 0}
    crowd = [{**update, "user_id": f"@u{n}:{THERE}"} for n in range(MOST_USERS)]
    for content in (
        {"push": [{**update, "user_id": user} for user in (OTHERS, ALICE, STRANGER)]},
        {"push": [{**update, "presence": "offline"}]},
        {"push": [*crowd, update]},
        *({"push": odd} for odd in ODD),
        *({"push": [odd]} for odd in ODD),
        *({"push": [{**update, name: odd}]} for name in ("user_id", "presence") for odd in ODD),
    ):
        await process.presence.receive(THERE, content)
    assert await process.about() == {}
    assert process.board.remote_count == 0
    for odd in ODD:
        await process.presence.receive(
            THERE, {"push": [{**update, "status_msg": odd, "last_active_ago": odd}]}
        )
    assert (await process.about())[USER]["presence"] == "online"
    await process.presence_seen.stop()


async def test_other_processes_hear_of_their_users(database: Database) -> None:
    """Whichever process was told last is right."""
    one, two = await Process.open(database), await Process.open(database)
    await one.room(USER)
    for process in (one, two):
        process.presence_seen.seen(ALICE, "D", "online")
    update = {"user_id": USER, "presence": "online", "last_active_ago": 0}

    async def exchange() -> None:
        for _ in range(6):
            for process, other in ((one, two), (two, one)):
                await process.pass_time(1)
                for payload in process.told:
                    if payload.startswith("{"):
                        await process.presence_seen.heard(payload)
                        await other.presence_seen.heard(payload)
                process.told.clear()

    await one.presence_seen._peers.greet()
    await two.presence_seen._peers.greet()
    await exchange()
    await one.presence.receive(THERE, {"push": [update]})
    await exchange()
    assert (await one.about())[USER]["presence"] == (await two.about())[USER]["presence"] == "online"
    await one.pass_time(1)
    await two.pass_time(2)
    await two.presence.receive(THERE, {"push": [{**update, "presence": "unavailable"}]})
    await exchange()
    assert (await one.about())[USER]["presence"] == (await two.about())[USER]["presence"] == "unavailable"
    for process in (one, two):
        await process.presence_seen.stop()
