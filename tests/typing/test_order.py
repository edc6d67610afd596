# SPDX-License-Identifier: Apache-2.0
"""A client that goes from process to process learns who types, however late each hears of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from homeserver.stream.ephemeral import EphemeralClock
from homeserver.stream.listeners import Listeners
from homeserver.typing import NobodyElsewhere, TypingNews
from homeserver.typing.service import GRACE, MAX_TIMEOUT

ROOM = 1
START = 1_700_000_000_000
OTHERS: Any = SimpleNamespace(has_others=True)


class Order:
    """Notifications in the order of their commits, which every process hears, each at its own time."""

    def __init__(self, skew: list[int]) -> None:
        self.time = Clock()
        self.news: list[str] = []
        self.told = 0
        """Up to where those who told know that it stands."""
        self.processes = [_Process(self, number, ahead) for number, ahead in enumerate(skew)]


class _Process:
    def __init__(self, order: Order, number: int, ahead: int) -> None:
        self.order, self.ahead = order, ahead
        self.begin_anew(number)

    def begin_anew(self, number: int) -> None:
        """As a process that knows nothing of what was told before."""
        order, ahead = self.order, self.ahead
        self.heard = len(order.news)
        self.clock = EphemeralClock(lambda: START + int(order.time.seconds() * 1000) + ahead)
        room = SimpleNamespace(head=SimpleNamespace(is_joined=lambda _: True))
        cache: Any = SimpleNamespace(peek_key=lambda _: room)

        async def notify(_channel: str, payload: str) -> None:
            order.news.append(payload)

        self.news = TypingNews(
            origin=f"{number}",
            clock=self.clock,
            scheduler=order.time,
            cache=cache,
            listeners=Listeners(),
            readers=lambda _: (),
            notify=notify,
            others=OTHERS,
            elsewhere=NobodyElsewhere(),
        )

    def hear(self, upto: int) -> None:
        while self.heard < upto:
            self.heard += 1
            self.news.heard(self.order.news[self.heard - 1])

    def sync(self, client: Client) -> None:
        """As a request does: what was told before it is heard first."""
        self.hear(self.order.told)
        self.clock.observe(client.since)
        typists = self.news.since([ROOM], client.since).get(ROOM)
        if typists is not None:
            client.known = typists
        client.since = max(client.since, self.clock.current)


class Client:
    def __init__(self) -> None:
        self.since = 0
        self.known: list[str] = []


process = st.integers(0, 2)
act = st.one_of(
    st.tuples(st.just("tell"), process, st.sampled_from(["a", "b"]), st.sampled_from([0, 3_000])),
    st.tuples(st.just("hear"), process, st.integers(1, 3)),
    st.tuples(st.just("sync"), process),
    st.tuples(st.just("told")),
    st.tuples(st.just("pass"), st.sampled_from([0.0, 0.001, 2.0])),
)
restart = st.tuples(st.just("restart"), st.just(2))


def play(acts: list[Any], skew: list[int]) -> tuple[Order, Client, Client]:
    order, client, staying = Order(skew), Client(), Client()
    for kind, *how in acts:
        if kind == "pass":
            order.time.advance(how[0])
        elif kind == "told":
            order.told = len(order.news)
        else:
            who = order.processes[how[0]]
            if kind == "tell":
                done = Deferred.fromCoroutine(who.news.tell(ROOM, how[1], how[2], ours=True))
                assert done.called
            elif kind == "hear":
                who.hear(min(len(order.news), who.heard + how[1]))
            elif kind == "restart":
                who.news.stop()
                who.begin_anew(how[0] + 10 * len(order.news))
            else:
                who.sync(client)
                if who.clock.current >= client.since:
                    assert set(client.known) == set(who.news.in_room(ROOM))
                order.processes[0].sync(staying)
    return order, client, staying


@settings(max_examples=200, deadline=None)
@given(
    st.lists(act, max_size=40),
    st.lists(st.integers(-40, 40), min_size=3, max_size=3),
    process,
)
def test_who_goes_from_process_to_process_knows_who_types(
    acts: list[Any], skew: list[int], last: int
) -> None:
    """At every answer, and in the end; all processes number alike."""
    order, client, staying = play(acts, skew)
    order.told = len(order.news)
    for each in order.processes:
        each.hear(order.told)
    assert len({each.clock.current for each in order.processes}) == 1
    for told in (client, staying):
        order.processes[last].sync(told)
        assert set(told.known) == set(order.processes[0].news.in_room(ROOM))


@settings(max_examples=200, deadline=None)
@given(st.lists(act | restart, max_size=40), st.integers(0, 1))
def test_nobody_types_for_ever(acts: list[Any], last: int) -> None:
    """Whoever was told that somebody types is told the end, though the process where they began is gone.

    Nobody asks the one that comes in its place: it does not know what was told before.
    """
    order, client, staying = play([each for each in acts if each != ("sync", 2)], [0, 0, 0])
    for _ in range(3):
        order.time.advance(MAX_TIMEOUT / 1000 + GRACE)
        order.told = len(order.news)
        for each in order.processes:
            each.hear(order.told)
    for told in (client, staying):
        order.processes[last].sync(told)
        assert told.known == []
