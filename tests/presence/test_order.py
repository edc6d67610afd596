# SPDX-License-Identifier: Apache-2.0
"""A client that goes from process to process learns how everybody is, however late each hears of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from homeserver.presence import Board, Presence, Sharing
from homeserver.presence.person import Shown
from homeserver.protocol.tokens import SyncToken
from homeserver.stream.changes import Change
from homeserver.stream.ephemeral import EphemeralClock
from homeserver.stream.listeners import Listeners
from storage.presence import KeptPresence, SeenUser

START = 1_700_000_000_000
READER, OTHERS = "@reader", ("@a", "@b")
USERS = (READER, *OTHERS)
OTHERS_THERE: Any = SimpleNamespace(has_others=True)


class World:
    """What the database has, and what it notifies of, in the order of commits."""

    def __init__(self, skew: Sequence[int]) -> None:
        self.time = Clock()
        self.kept: dict[str, SeenUser] = {}
        self.news: list[str | Change] = []
        self.told = 0
        """Up to where those who told know that it stands."""
        self.position = 0
        self.told_elsewhere: dict[str, str] = {}
        """What other servers were told last of each user."""
        self.joined: dict[str, dict[int, int]] = {user: {} for user in USERS}
        self.mishaps = self.lookups = 0
        self.processes = [Process(self, number, ahead) for number, ahead in enumerate(skew)]
        self.started = len(skew)

    def join(self, user: str, room: int) -> Change | None:
        if room in self.joined[user]:
            return None
        change = Change(self.position, 1, (room,), (user,))
        self.position = self.joined[user][room] = change.position
        self.news.append(change)
        return change

    def replace(self, process: Process) -> Process:
        """It is gone without a word; another comes instead, which knows nothing of what was told before."""
        process.dead = True
        place, self.started = self.processes.index(process), self.started + 1
        self.processes[place] = Process(self, self.started, process.ahead)
        return self.processes[place]

    def lose(self, process: Process) -> None:
        """Notifications that it did not hear yet, but for the stream, which is read up."""
        for news in self.news[process.heard :]:
            if isinstance(news, Change):
                process.learn(news)
        process.heard = len(self.news)
        finish(process.presence.missed())

    def share(self, user: str, other: str, upto: int) -> bool:
        mine, theirs = self.joined[user], self.joined[other]
        return user == other or any(max(mine[room], theirs[room]) <= upto for room in mine.keys() & theirs)

    def settle(self, seconds: float = 6) -> None:
        """Everybody hears everything, and does what is to be done."""
        for _ in range(round(2 * seconds)):
            self.told = len(self.news)
            for process in self.processes:
                process.hear(self.told)
            self.time.advance(0.5)

    def states(self) -> list[dict[str, str]]:
        """How each process shows everybody whom it does not show offline."""
        return [
            {p.user_id: p.published.state for p in each.board if p.published.state != "offline"}
            for each in self.processes
        ]

    def presence(self, people: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Other servers are told."""
        self.told_elsewhere.update((user, content["presence"]) for user, content in people)

    # Of the store.

    async def joined_rooms(self, users: Iterable[str]) -> dict[str, dict[int, int]]:
        self.lookups += 1
        return {user: dict(self.joined[user]) for user in users}

    async def get(self, _users: object) -> dict[str, Any]:
        return {}

    async def online(self) -> list[KeptPresence]:
        return [
            KeptPresence(who.user_id, None, who.last_active_ts) for who in self.kept.values() if who.online
        ]

    async def put(self, users: Iterable[SeenUser]) -> None:
        self.kept.update((who.user_id, who) for who in users)

    async def delete(self, _user: str) -> None: ...

    async def set_status(self, *_: object) -> None: ...


class Process:
    def __init__(self, world: World, number: int, ahead: int) -> None:
        self.world, self.ahead = world, ahead
        self.heard, self.position = len(world.news), world.position
        self.deaf = self.dead = False
        self.early: set[int] = set()
        """Positions of its own commits, not shown yet."""

        def now() -> int:
            return START + int(world.time.seconds() * 1000) + ahead

        def call_later(delay: float, fn: Callable[..., object], *args: object) -> Any:
            return world.time.callLater(delay, lambda: None if self.dead else fn(*args))

        scheduler: Any = SimpleNamespace(callLater=call_later)

        async def notify(_channel: str, payloads: Sequence[str]) -> None:
            world.news.extend(payloads)

        self.clock, self.sharing = EphemeralClock(now), Sharing()
        self.board = Board(sharing=self.sharing, is_ours=lambda _: True, now=now)
        store: Any = world
        self.presence = Presence(
            enabled=True,
            origin=f"{number}",
            board=self.board,
            sharing=self.sharing,
            store=store,
            user_rooms=store,
            listeners=Listeners(),
            elsewhere=self.world,
            notify=notify,
            others=OTHERS_THERE,
            scheduler=scheduler,
            clock=self.clock,
            now=now,
        )
        finish(self.presence.start())

    def join(self, user: str, room: int) -> None:
        change = self.world.join(user, room)
        if change is not None:
            self.learn(change)

    def learn(self, change: Change) -> None:
        self.sharing.changed(change)
        self.early.add(change.position)
        while self.position + 1 in self.early:
            self.position += 1

    def hear(self, upto: int) -> None:
        while self.heard < upto and not self.deaf:
            news = self.world.news[self.heard]
            self.heard += 1
            if isinstance(news, str):
                finish(self.presence.heard(news))
            else:
                self.learn(news)

    def sync(self, client: Client) -> None:
        """As a request does: what was told before it is heard first."""
        self.hear(self.world.told)
        self.presence.seen(READER, "D", "online")
        since, serial = client.since, self.clock.current
        self.clock.observe(since.ephemeral)
        if since.position > self.position:
            return
        if not self.presence.is_known(READER, since.ephemeral, moved=since.position < self.position):
            finish(self.presence.learn())
        for event in self.presence.changed(READER, since.ephemeral, since.position):
            client.known[event["sender"]] = event["content"]["presence"]
        client.since = SyncToken(self.position, max(serial, since.ephemeral))
        if serial >= since.ephemeral and not self.world.mishaps:
            self.check(client)

    def check(self, client: Client) -> None:
        """The client knows how everybody is whom they may know of."""
        for user in USERS:
            person = self.board.get(user)
            if person is not None and self.world.share(READER, user, self.position):
                assert client.known.get(user, "offline") == person.published.state


class Client:
    def __init__(self) -> None:
        self.since = SyncToken(0)
        self.known: dict[str, str] = {}


def finish(work: Any) -> None:
    done = Deferred.fromCoroutine(work)
    assert done.called
    failed: list[Any] = []
    done.addErrback(failed.append)
    assert not failed


process, user = st.integers(0, 2), st.sampled_from(USERS)
sync = st.tuples(st.just("sync"), process)
act = st.one_of(
    sync,
    st.tuples(st.just("seen"), process, user, st.sampled_from(["online", "unavailable", "offline"])),
    st.tuples(st.just("put"), process, user, st.sampled_from(["online", "unavailable", "offline"])),
    st.tuples(st.just("join"), process, user, st.integers(1, 2)),
    st.tuples(st.just("hear"), process, st.integers(1, 3)),
    sync,
    st.tuples(st.just("told")),
    st.tuples(st.just("settle")),
    st.tuples(st.just("pass"), st.sampled_from([0.0, 0.3, 0.3, 1.5, 6.0, 40.0, 160.0])),
)
mishap = st.one_of(
    st.tuples(st.just("replace"), st.integers(1, 2)),  # one stays that knows
    st.tuples(st.just("lose"), process),
)


def play(world: World, acts: list[Any], client: Client, staying: Client) -> None:
    """`client` goes from process to process, `staying` asks the first only."""
    for other in OTHERS:
        world.processes[1].presence.seen(other, "D", "online")
    for kind, *how in acts:
        if kind == "pass":
            world.time.advance(how[0])
        elif kind == "settle":
            world.settle()
        elif kind == "told":
            world.told = len(world.news)
        else:
            who = world.processes[how[0]]
            if kind == "seen":
                who.presence.seen(how[1], "D", how[2])
            elif kind == "put":
                finish(who.presence.put(how[1], how[1], "D", how[2], None))
            elif kind == "join":
                who.join(how[1], how[2])
            elif kind == "hear":
                who.hear(min(len(world.news), who.heard + how[1]))
            elif kind in ("replace", "lose"):
                world.replace(who) if kind == "replace" else world.lose(who)
                world.mishaps += 1
                world.settle()
            else:
                who.sync(client)
                world.processes[0].sync(staying)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(act, min_size=5, max_size=40), st.lists(st.integers(-40, 40), min_size=3, max_size=3), process
)
def test_who_goes_from_process_to_process_knows_how_everybody_is(
    acts: list[Any], skew: list[int], last: int
) -> None:
    """At every answer, and in the end; all processes show the same, numbered alike."""
    world, client, staying = World(skew), Client(), Client()
    world.processes[0].join(READER, 1)
    world.processes[0].join("@a", 1)
    world.processes[1].join("@b", 2)
    world.settle()  # they know of each other
    play(world, acts, client, staying)
    world.settle()
    shown = [
        {
            person.user_id: (person.serial, person.published)
            for person in process.board
            if person.published.state != "offline"
        }
        for process in world.processes
    ]
    assert shown[0] == shown[1] == shown[2]
    for told in (client, staying):
        world.processes[last].sync(told)
        world.processes[last].check(told)
    finish(world.processes[0].presence.put("@a", "@a", "D", "unavailable", "tea"))
    world.settle()
    world.processes[last].sync(client)
    assert client.known["@a"] == "unavailable"
    world.settle(60)
    assert world.states() == [{}, {}, {}]
    assert set(world.told_elsewhere.values()) <= {"offline"}


def test_who_was_at_two_processes_and_goes_is_offline_everywhere() -> None:
    """Though each of the two knows the other's word only, which is out of date."""
    world = World([0, 0, 0])
    for process in world.processes[:2]:
        process.presence.seen("@a", "D", "online")
    world.settle()
    assert world.states() == [{"@a": "online"}] * 3
    world.settle(60)
    assert world.states() == [{}] * 3
    assert world.told_elsewhere == {"@a": "offline"}


def test_what_is_chosen_holds_at_every_process_until_the_user_was_gone() -> None:
    """To ask another process is neither to come back nor to be active."""
    world = World([0, 0, 0])
    first, second, _ = (process.presence for process in world.processes)
    finish(first.put("@a", "@a", "D", "offline", None))
    world.settle()
    second.seen("@a", "D", "online")
    world.settle()
    assert world.states() == [{}] * 3
    world.settle(60)
    second.seen("@a", "D", "online")
    world.settle()
    assert world.states() == [{"@a": "online"}] * 3
    for process in [first, second] * 8:
        process.seen("@a", "D", "online")
        world.settle(20)
    assert world.states() == [{"@a": "unavailable"}] * 3


def test_what_a_user_does_counts_at_whichever_process() -> None:
    """Though their devices ask another for news."""
    world = World([0, 0, 0])
    first, second, _ = (process.presence for process in world.processes)
    for turn in range(44):
        first.seen("@a", "D", "online")
        if 10 < turn < 30:
            second.active("@a")
        world.settle(10)
        assert world.states() == [{"@a": "online"}] * 3
    for _ in range(25):
        first.seen("@a", "D", "online")
        world.settle(10)
    assert world.states() == [{"@a": "unavailable"}] * 3


def test_a_process_that_came_late_agrees_once_another_is_taken_for_gone() -> None:
    """It never heard what the one that is gone said; a client that was told so learns from it that it holds no more."""
    world, client = World([0, 0, 0]), Client()
    for user in (READER, "@a"):
        world.processes[1].join(user, 1)
    world.settle()
    for _ in range(4):
        world.processes[0].presence.seen("@a", "D", "online")
        world.settle(20)  # until it is kept that they are online
    late = world.replace(world.processes[0])
    world.settle(50)
    world.processes[1].presence.seen("@b", "D", "online")
    world.settle()
    world.processes[1].sync(client)
    assert client.known["@a"] == "online"
    assert "@a" not in world.states()[0]
    world.settle(240)
    late.sync(client)
    assert client.known["@a"] == "offline"


def test_a_process_that_hears_nothing_makes_nobody_flap() -> None:
    """However often it looks who was not heard of; nor once it hears what it missed."""
    world = World([0, 0, 0])
    deaf = world.processes[2]
    shown = set()
    for turn in range(26):
        deaf.deaf = 0 < turn < 25
        world.processes[0].presence.seen("@a", "D", "online")
        world.processes[0].presence.active("@a")
        world.settle(20)
        shown.add(world.processes[1].board.person("@a").serial)
    assert world.states() == [{"@a": "online"}] * 3
    assert len(shown) == 1
    assert not any("gone" in news for news in world.news if isinstance(news, str))


def test_news_that_was_missed_is_said_again() -> None:
    """Also that somebody went, and to whom never heard that they had come."""
    world, client = World([0, 0, 0]), Client()
    for user in (READER, "@a", "@b"):
        world.processes[0].join(user, 1)
    first, _, deaf = world.processes
    first.presence.seen("@a", "D", "online")
    world.settle()
    deaf.deaf = True
    first.presence.seen("@b", "D", "online")
    world.settle(20)
    first.sync(client)
    assert client.known == {"@a": "online", "@b": "online"}
    world.settle(40)
    deaf.deaf = False
    world.lose(deaf)
    assert world.states()[2] == {"@a": "online"}
    world.settle()
    deaf.sync(client)
    assert client.known["@a"] == client.known["@b"] == "offline"
    assert world.states() == [{}] * 3


def test_whose_account_is_closed_is_offline_everywhere() -> None:
    """Also where the last word of them is heard after they were forgotten."""
    world = World([0, 0, 0])
    first = world.processes[0]
    for _ in range(2):
        first.presence.seen("@a", "D", "online")
        finish(first.presence.put("@a", "@a", "D", "online", "bye"))
        finish(first.presence.depart("@a", erase=False))
        assert first.board.get("@a") is None
        world.settle()
        assert world.states() == [{}] * 3
        assert world.processes[1].board.person("@a").published == Shown()
    assert first.board.get("@a") is None


@pytest.mark.parametrize("late", ["get", "set_status"])
def test_who_says_how_they_are_is_not_forgotten_meanwhile(monkeypatch: pytest.MonkeyPatch, late: str) -> None:
    """However late the database answers: they are looked at like everybody, and so go again."""
    world = World([0, 0, 0])
    world.settle()
    first, answer = world.processes[0], Deferred[dict[str, Any]]()
    monkeypatch.setattr(world, late, lambda *_: answer)
    work = Deferred.fromCoroutine(first.presence.put("@a", "@a", "D", "online", "tea"))
    world.settle()
    answer.callback({})
    world.settle()
    assert work.called
    assert world.states() == [{"@a": "online"}] * 3
    world.settle(60)
    assert world.states() == [{}] * 3


def test_rooms_are_looked_up_once_a_second_though_nobody_is_news() -> None:
    world = World([0, 0, 0])
    world.processes[0].presence.seen("@a", "D", "online")
    world.settle(10)
    before = world.lookups
    for _ in range(40):
        world.processes[0].sharing.stale.add("@a")
        world.processes[0].presence._flush_soon()
        world.time.advance(0.1)
    assert 1 < world.lookups - before < 6


@settings(max_examples=60, deadline=None)
@example(
    [("replace", 2), ("sync", 0), ("pass", 40.0), ("settle",), ("replace", 1)], 1
)  # the one that said it dies
@given(st.lists(act | mishap, min_size=5, max_size=40), process)
def test_whatever_was_missed_everybody_who_is_gone_is_offline_everywhere(acts: list[Any], last: int) -> None:
    """Though processes die, others begin, and notifications get lost; whoever was told otherwise is told so."""
    world, client, staying = World([0, 0, 0]), Client(), Client()
    for user in USERS:
        world.processes[0].join(user, 1)
    world.settle()
    play(world, acts, client, staying)
    world.settle(300)
    assert world.states() == [{}] * 3
    for told in (client, staying):
        world.processes[last].sync(told)
        assert {told.known.get(other, "offline") for other in OTHERS} == {"offline"}
