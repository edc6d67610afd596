# SPDX-License-Identifier: Apache-2.0
"""Unread counts, worked out when a sync asks for them and kept in memory from then on.

Owns when to look at what. A room that a user asks of for the first time costs its share of two queries for all such
rooms (receipts, and the newest events after them); from then on each new event is judged once per user who asks, from
memory, and a receipt only drops places off a list. For a room without news an answer is a look into a dictionary.

Events are judged by the rules and the state of the room when they are first looked at, as soon after they came as
somebody asks. Changing rules changes what is to come, not what was counted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

from msgspec import Struct, field

from homeserver.events import RoomEvent
from homeserver.needs import Protocol
from homeserver.protocol.push_rules import CompiledRules, Reader, RoomFacts
from homeserver.rooms.engine import Room, RoomCache, RoomHead
from homeserver.rooms.engine.member_events import MemberEvents
from homeserver.stream import Stream
from homeserver.unread.counts import UnreadCounts
from homeserver.unread.judging import TURN, VIEW_BYTES, Item, Judge, Verdict, Views
from homeserver.unread.ledger import MAIN, MOST, UNTHREADED, Ledger
from homeserver.unread.threads import Related, find_threads
from storage.events import EventStore
from storage.receipts import Receipt
from storage.unread import UnreadEvent, UnreadRange

CAPACITY = 100_000
"""Rooms of users kept in memory, some 800 bytes each; where much is unread, in many threads, one counts for more."""
SLICE = 200
"""Events from the database judged in one turn of the reactor."""
ROUNDS = 4
"""Attempts at an answer while rooms and receipts move underneath."""
AT_ONCE = 16
"""Events of a room that are judged without letting the reactor turn."""
LONGEST_NAME = 256
"""Characters of a display name that is kept at hand, as long as servers allow one to be."""
_LATEST = 2**63 - 1


class Rules(Protocol):
    def compiled(self, user_id: str) -> Awaitable[CompiledRules]: ...

    def compiled_at_once(self, user_id: str) -> CompiledRules | None: ...


class Ignoring(Protocol):
    def ignored(self, user_id: str) -> Awaitable[frozenset[str]]: ...


class RecentReceipts(Protocol):
    """Receipts that moved lately; see `homeserver.receipts.recent`."""

    @property
    def latest(self) -> int: ...

    def since(
        self, rooms: dict[int, Ledger], since: int, upto: int
    ) -> tuple[Mapping[int, Sequence[Receipt]], Sequence[int]]: ...


class UnreadStore(Protocol):
    def read(
        self, user_id: str, rooms: Sequence[int]
    ) -> Awaitable[Mapping[int, Sequence[tuple[str, int]]]]: ...

    def events(
        self, ranges: Sequence[UnreadRange], limit: int
    ) -> Awaitable[Mapping[int, Sequence[UnreadEvent]]]: ...


class _User:
    """What is known of one user. Receipts up to `checked` are in the ledgers."""

    __slots__ = ("checked", "epoch", "extra", "ignored", "ledgers", "size", "user_id")

    def __init__(self, user_id: str, checked: int) -> None:
        self.user_id = user_id
        self.checked = checked
        self.ledgers: dict[int, Ledger] = {}
        self.ignored: frozenset[str] = frozenset()
        self.epoch = 0
        """Grows when all that was counted became void."""
        self.size = 0
        """How many ledgers were counted towards the capacity."""
        self.extra = 0
        """What those that weigh more were counted for besides."""

    def forget(self, room: int) -> None:
        ledger = self.ledgers.pop(room, None)
        if ledger is not None:
            self.extra -= ledger.extra_counted

    def forget_all(self) -> None:
        self.ledgers.clear()
        self.extra = 0
        self.epoch += 1

    def weigh(self, ledger: Ledger) -> None:
        """It weighs something else than it did."""
        self.extra += ledger.extra - ledger.extra_counted
        ledger.extra_counted = ledger.extra


class _Work(Struct):
    """A room to bring up to date: events in after < position ≤ upto. `fresh`: its ledger is not yet in use."""

    room: Room
    ledger: Ledger
    fresh: bool
    after: int
    upto: int
    recent: list[RoomEvent] | None = None
    struck: list[int] = field(default_factory=list)
    """Positions of events that were redacted meanwhile."""
    void: bool = False
    """Something was redacted whose place is not known, or that the user sent: with it goes the sign that they read."""
    verdicts: list[Verdict] = field(default_factory=list)


class Unread:
    """One per process."""

    def __init__(
        self,
        *,
        stream: Stream,
        rooms: RoomCache,
        member_events: MemberEvents,
        events: EventStore,
        store: UnreadStore,
        recent_receipts: RecentReceipts,
        rules: Rules,
        ignoring: Ignoring,
        pause: Callable[[], Awaitable[None]],
        capacity: int = CAPACITY,
        view_budget: int = VIEW_BYTES,
    ) -> None:
        """`pause` lets the reactor turn once."""
        self._stream = stream
        self._rooms = rooms
        self._member_events = member_events
        self._events = events
        self._store = store
        self._recent_receipts = recent_receipts
        self._rules = rules
        self._ignoring = ignoring
        self._pause = pause
        self._capacity = capacity
        self._users: OrderedDict[str, _User] = OrderedDict()
        self._size = 0
        self._views = Views(view_budget)
        self._facts: tuple[RoomHead, RoomFacts] | None = None
        self._spent = 0

    async def counts(self, user_id: str, rooms: Sequence[int], upto: int) -> dict[int, UnreadCounts]:
        """For each of those rooms (by key) that the user is joined to and in which something is unread.

        Every event up to the stream position `upto` is in, later ones may be. At most MOST per room are counted.
        """
        user = self._user(user_id)
        ignored = await self._ignoring.ignored(user_id)
        if ignored is not user.ignored and ignored != user.ignored:
            user.forget_all()
        user.ignored = ignored
        behind: Sequence[int] = rooms
        for _ in range(ROUNDS):
            self._apply_receipts(user)
            behind = self._behind(user, behind, upto)
            if not behind:
                break
            behind = await self._catch_up(user, behind)
            if not behind:
                break
        found: dict[int, UnreadCounts] = {}
        for key in rooms:
            ledger = user.ledgers.get(key)
            if ledger is None:
                continue
            if ledger.extra != ledger.extra_counted:
                user.weigh(ledger)
            if not ledger.is_empty:
                found[key] = ledger.counts
        self._trim(user)
        return found

    def at_once(self, user_id: str, room: int, upto: int, ignored: frozenset[str]) -> UnreadCounts | None:
        """What `counts` gives of one room, if that takes no more than to judge a few messages that are in memory.

        `ignored`: whom the user is known to ignore.
        """
        user = self._users.get(user_id)
        if (
            user is None
            or room not in user.ledgers
            or (ignored is not user.ignored and ignored != user.ignored)
        ):
            return None
        self._users.move_to_end(user_id)
        if self._recent_receipts.latest > user.checked:
            self._apply_receipts(user)
        ledger = user.ledgers.get(room)
        if ledger is None:
            return None
        if ledger.position < upto and not self._judge_at_once(user, ledger, room):
            return None
        if ledger.extra != ledger.extra_counted:
            user.weigh(ledger)
            self._trim(user)
        return ledger.counts

    def _behind(self, user: _User, rooms: Iterable[int], upto: int) -> list[int]:
        """Of those rooms the ones that are not up to date, and cannot be brought so from memory in a moment."""
        behind: list[int] = []
        spent = 0
        for key in rooms:
            if self._is_current(user, key, upto):
                continue
            ledger = user.ledgers.get(key)
            if ledger is None or spent >= TURN:
                behind.append(key)
                continue
            if not self._judge_at_once(user, ledger, key):
                behind.append(key)
            spent += self._spent  # in vain, too
        return behind

    def _judge_at_once(self, user: _User, ledger: Ledger, key: int) -> bool:
        """Bring a room up to date without waiting; False, having changed nothing, if that cannot be.

        `_spent` is what the user's rules took, whatever came of it.
        """
        self._spent = 0
        room, rules = self._rooms.peek_key(key), self._rules.compiled_at_once(user.user_id)
        if room is None or rules is None:
            return False
        head = room.head
        member = head.members.get(user.user_id)
        recent = room.recent_since(ledger.position)
        if member is None or member.membership != "join" or member.since != ledger.since:
            return False
        if recent is None or len(recent) > AT_ONCE:
            return False
        known = ledger.reader
        if known is None or known[0] != member.ordinal:
            entry = self._member_events.peek(key, member.ordinal)
            if entry is None:
                return False
            known = _remember_reader(ledger, user.user_id, entry)
        judge = Judge(rules, known[1], room_id=head.room_id, facts=self._facts_of(head), ignored=user.ignored)
        verdicts = judge.judge_simple(recent, self._views)
        self._spent = judge.spent
        if verdicts is None:
            return False
        _take(ledger, verdicts, head.position)
        return True

    def _facts_of(self, head: RoomHead) -> RoomFacts:
        """As rules ask for them; the same for all who ask after one event."""
        known = self._facts
        if known is None or known[0] is not head:
            known = self._facts = (head, RoomFacts(head.joined_count, head.power_levels))
        return known[1]

    # What is in memory.

    def _user(self, user_id: str) -> _User:
        user = self._users.get(user_id)
        if user is None:
            user = self._users[user_id] = _User(user_id, self._stream.position)
        self._users.move_to_end(user_id)
        return user

    @property
    def size(self) -> int:
        """Rooms of users that are counted for, as many as they weigh (`CAPACITY`)."""
        return self._size

    @property
    def view_weight(self) -> int:
        """About how many bytes the events take that are kept apart for judging."""
        return self._views.weight

    def _trim(self, present: _User) -> None:
        """Keep within the capacity, but for the user who just asked."""
        if self._users.get(present.user_id) is not present:
            return  # evicted while something was waited for
        size = len(present.ledgers) + present.extra
        self._size += size - present.size
        present.size = size
        while self._size > self._capacity and len(self._users) > 1:
            _, evicted = self._users.popitem(last=False)
            self._size -= evicted.size

    def _is_current(self, user: _User, key: int, upto: int) -> bool:
        ledger = user.ledgers.get(key)
        if ledger is None:
            return False
        if ledger.position >= upto or not self._stream.rooms.may_have_changed(key, ledger.position):
            return True
        room = self._rooms.peek_key(key)
        if room is None or room.head.position > ledger.position:
            return False
        ledger.advance(self._stream.position)  # the next look need not go so far
        return True

    def _apply_receipts(self, user: _User) -> None:
        """What the user has read since the last look."""
        position = self._stream.position
        if user.ledgers:
            moved, unknown = self._recent_receipts.since(user.ledgers, user.checked, _LATEST)
            for key, receipts in moved.items():
                _apply(user.ledgers[key], user.user_id, receipts)
            for key in unknown:
                user.forget(key)
        user.checked = position

    # Catching up.

    async def _catch_up(self, user: _User, keys: Sequence[int]) -> list[int]:
        """Bring rooms up to date; the keys of those that moved on meanwhile.

        Only what is not in memory is waited for. While it is, other requests of the same user may do the same work:
        whoever comes second finds its beginning out of date and drops what it did.
        """
        began, epoch = self._stream.position, user.epoch
        rules = await self._rules.compiled(user.user_id)
        works = [self._plan(user, room) for room in await self._load(keys) if _is_joined(room, user)]
        fresh = [work for work in works if work.fresh]
        if fresh:
            read = await self._store.read(user.user_id, [work.room.key for work in fresh])
            for work in fresh:
                for thread, place in read.get(work.room.key, ()):
                    work.ledger.read(thread, place)
        await self._judge(user, rules, works)
        await self._find_threads(works)
        if user.epoch != epoch:
            return [work.room.key for work in works]
        return self._settle(user, works, began)

    async def _load(self, keys: Sequence[int]) -> list[Room]:
        rooms = [self._rooms.peek_key(key) for key in keys]
        missing = [key for key, room in zip(keys, rooms, strict=True) if room is None]
        found = [room for room in rooms if room is not None]
        if missing:
            found.extend((await self._rooms.get_many(keys=missing)).values())
        return found

    def _plan(self, user: _User, room: Room) -> _Work:
        ledger = user.ledgers.get(room.key)
        since = room.head.members[user.user_id].since
        upto = room.head.position
        if ledger is None or ledger.since != since:
            return _Work(room, Ledger(since), True, since, upto)
        work = _Work(room, ledger, False, ledger.position, upto, room.recent_since(ledger.position))
        for entry in work.recent or ():
            if entry.stored.type == "m.room.redaction":
                target = entry.event.redacts
                struck = next((e.stored for e in room.recent if e.stored.event_id == target), None)
                if struck is None:
                    work.void |= _matters(entry.stored.sender, work, user)
                elif struck.redacted_by is not None:
                    work.void |= struck.sender == user.user_id
                    work.struck.append(struck.position)
        return work

    async def _judge(self, user: _User, rules: CompiledRules, works: Sequence[_Work]) -> None:
        names: Mapping[int, str] = {}
        if rules.needs_display_name:
            names = await self._display_names(user.user_id, works)
        cold: list[tuple[_Work, Judge]] = []
        spent = 0
        for work in works:
            head = work.room.head
            # A redaction, which may have taken the name away, is among what is judged here, never at once.
            work.ledger.reader = None
            facts = RoomFacts(head.joined_count, head.power_levels)
            reader = Reader(user.user_id, names.get(head.room))
            judge = Judge(rules, reader, room_id=head.room_id, facts=facts, ignored=user.ignored)
            if work.recent is None:
                cold.append((work, judge))
            else:
                events = (entry for entry in work.recent if entry.stored.redacted_by is None)
                items = map(Item.of_memory, events)
                spent = await self._judge_in_turns(work, judge, items, self._views, spent)
        if cold:
            await self._judge_stored(user, cold)

    async def _judge_in_turns(
        self, work: _Work, judge: Judge, items: Iterator[Item], views: Views | None, spent: int
    ) -> int:
        """Judge, letting the reactor turn whenever the user's rules took TURN steps: `spent` so far, and by the end."""
        while True:
            work.verdicts += judge.judge(items, views)
            spent += judge.spent
            if spent < TURN:
                return spent
            spent = 0
            await self._pause()

    async def _judge_stored(self, user: _User, cold: Sequence[tuple[_Work, Judge]]) -> None:
        """What is not in memory, in one query for all rooms."""
        ranges = []
        for work, _ in cold:
            after = work.ledger.read_up_to(UNTHREADED) if work.fresh else work.after
            if after < work.upto:
                main = work.ledger.read_up_to(MAIN) if work.fresh else after
                ranges.append(UnreadRange(work.room.key, after, main, work.upto))
        stored = await self._store.events(ranges, MOST)
        judged = spent = 0
        for work, judge in cold:
            rows = stored.get(work.room.key, ())
            if not work.fresh:
                redactions = (row for row in rows if row.type == "m.room.redaction")
                work.void |= any(_matters(row.sender, work, user) for row in redactions)
            for start in range(0, len(rows), SLICE):
                part = rows[start : start + SLICE]
                spent = await self._judge_in_turns(work, judge, map(Item.of_row, part), None, spent)
                judged += len(part)
                if judged >= SLICE:
                    judged = 0
                    await self._pause()

    async def _display_names(self, user_id: str, works: Iterable[_Work]) -> dict[int, str]:
        """The user's display name by room."""
        found: list[tuple[int, object]] = []
        missing: list[tuple[int, int]] = []
        for work in works:
            place = (work.room.key, work.room.head.members[user_id].ordinal)
            entry = self._member_events.peek(*place)
            if entry is None:
                missing.append(place)
            else:
                found.append((work.room.key, entry.event.content.get("displayname")))
        if missing:
            versions = {work.room.key: work.room for work in works}
            generation = self._member_events.generation
            for stored in await self._events.by_ordinals(missing):
                room = versions[stored.room]
                entry = RoomEvent(stored, room.room_id, room.head.version)
                self._member_events.put_read(entry, generation)
                found.append((stored.room, entry.event.content.get("displayname")))
        return {room: name for room, name in found if isinstance(name, str)}

    async def _find_threads(self, works: Iterable[_Work]) -> None:
        """Fill in the threads that the events do not tell themselves."""
        unsure = [work for work in works if any(verdict.thread is None for verdict in work.verdicts)]
        related = [
            Related(work.room.key, verdict.event_id, verdict.parent)
            for work in unsure
            for verdict in work.verdicts
            if verdict.thread is None and verdict.parent is not None
        ]
        if related:
            threads = await find_threads(self._events, related)
            for work in unsure:
                work.verdicts = [
                    verdict
                    if verdict.thread is not None
                    else verdict._replace(thread=threads[verdict.event_id])
                    for verdict in work.verdicts
                ]

    def _settle(self, user: _User, works: Iterable[_Work], began: int) -> list[int]:
        """Take over what was found, unless another request was quicker; the keys of what must be looked at again."""
        again: list[int] = []
        fresh: dict[int, Ledger] = {}
        for work in works:
            key, ledger = work.room.key, work.ledger
            present = user.ledgers.get(key)
            if work.fresh:
                if present is None or present.since != ledger.since or present.position < work.upto:
                    fresh[key] = ledger
                else:
                    continue
            elif present is not ledger or ledger.position != work.after:
                again.append(key)
                continue
            elif work.void:
                user.forget(key)
                again.append(key)
                continue
            _enter(work)
        if fresh:  # receipts that came while the events were read
            moved, unknown = self._recent_receipts.since(fresh, began, _LATEST)
            for key, receipts in moved.items():
                _apply(fresh[key], user.user_id, receipts)
            for key in unknown:
                del fresh[key]
                again.append(key)
            for key, ledger in fresh.items():
                user.forget(key)
                user.ledgers[key] = ledger
        return again


def _is_joined(room: Room, user: _User) -> bool:
    if room.head.is_joined(user.user_id):
        return True
    user.forget(room.key)
    return False


def _remember_reader(ledger: Ledger, user_id: str, entry: RoomEvent) -> tuple[int, Reader]:
    """The user as their member event names them."""
    name = entry.event.content.get("displayname")
    if not isinstance(name, str):
        name = None
    reader = (entry.stored.ordinal, Reader(user_id, name))
    if name is None or len(name) <= LONGEST_NAME:
        ledger.reader = reader
    return reader


def _matters(redactor: str, work: _Work, user: _User) -> bool:
    """Whether a redaction of an event whose place is not known may change what is unread."""
    return redactor == user.user_id or not work.ledger.is_empty


def _apply(ledger: Ledger, user_id: str, receipts: Iterable[Receipt]) -> None:
    for receipt in receipts:
        if receipt.user_id == user_id:
            ledger.read(receipt.thread, receipt.place)


def _enter(work: _Work) -> None:
    """Put what was found into the ledger."""
    for place in work.struck:
        work.ledger.strike(place)
    _take(work.ledger, work.verdicts, work.upto)


def _take(ledger: Ledger, verdicts: Iterable[Verdict], upto: int) -> None:
    """All events up to a position were judged so."""
    for verdict in verdicts:
        thread = verdict.thread or MAIN
        if verdict.own:
            ledger.read(thread, verdict.position)
        else:
            ledger.add(thread, verdict.position, highlight=verdict.highlight)
    ledger.advance(upto)
