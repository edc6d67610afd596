# SPDX-License-Identifier: Apache-2.0
"""Who is let in, waits and is refused: places, shares, patience, and that every request gets one answer."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from homeserver.errors import LimitExceeded
from homeserver.observability.metrics import render
from homeserver.web.admission import (
    FEW_HEAVY,
    FREE_PER_SECOND,
    HOLD,
    PATIENT_REFUSALS,
    Admission,
    Entry,
)
from homeserver.web.kinds import Kind
from homeserver.web.lane import MOST_OF_USER, MOST_RUNNING, MOST_WAITING, PATIENCE, PLACE_SECONDS
from homeserver.web.strain import LOOK


class Asked(Entry):
    """A request that only remembers what became of it."""

    def __init__(self, busy: "Busy", kind: Kind, user: str, room: str | None, **more: Any) -> None:
        super().__init__(kind, user, room, **more)
        self._busy = busy

    def begin(self) -> None:
        self._busy.begun.append(self)

    def refuse(self, error: LimitExceeded) -> None:
        self._busy.refused.append((self.user, error))

    def gone(self) -> bool:
        return self.user in self._busy.gone


class Busy:
    """An admission under strain, and what became of whom."""

    def __init__(self, admission: Admission | None = None) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.admission = Admission(self.clock) if admission is None else admission
        self.admission.looked(True)
        self.begun: list[Entry] = []
        self.refused: list[tuple[str, LimitExceeded]] = []
        self.gone: set[str] = set()

    def ask(self, user: str, kind: Kind = Kind.ORDINARY, room: str | None = None, **more: Any) -> None:
        self.admission.ask(Asked(self, kind, user, room, **more))

    def fill(self, kind: Kind = Kind.ORDINARY) -> None:
        """Take every place."""
        for number in range(MOST_RUNNING[kind]):
            self.ask(f"filler {number}", kind)

    def done(self, count: int = 1) -> None:
        """The oldest that run are done."""
        for _ in range(count):
            self.admission.done(self.begun.pop(0))

    def wait(self, seconds: float, *, strained: bool = True, database: float = 0.0) -> None:
        """Let time pass, with the looks that come in it."""
        for _ in range(round(seconds / LOOK)):
            self.clock.advance(LOOK)
            self.admission.looked(strained, database_wait=database)

    def asks(self) -> bool:
        """Whether requests must ask."""
        return self.admission.busy

    @property
    def users(self) -> list[str]:
        return [entry.user for entry in self.begun]


def test_so_many_at_a_time_and_the_others_in_turn() -> None:
    busy = Busy()
    busy.fill()
    for user in ("a", "a", "a", "a", "b"):
        busy.ask(user)
    assert len(busy.begun) == MOST_RUNNING[Kind.ORDINARY]
    busy.done(4)
    assert sorted(busy.users[-4:]) == ["a", "a", "a", "b"]
    assert busy.admission.statistics() == {
        "waiting": 1,
        "running": MOST_RUNNING[Kind.ORDINARY],
        "held": 0,
        "refused": 0,
    }


def test_who_names_a_user_for_a_room_takes_nothing_of_them() -> None:
    busy = Busy()
    half = MOST_RUNNING[Kind.ORDINARY] // 2
    for number in range(half):
        busy.ask(f"greedy {number}", room="@polite:test")
    busy.ask("@polite:test")
    assert busy.users[-1] == "@polite:test"


def test_a_share_is_bounded_and_the_others_do_not_notice() -> None:
    """Of a thousand requests of one user a few wait; who comes after them is next all the same."""
    busy = Busy()
    busy.fill()
    for _ in range(1000):
        busy.ask("greedy")
    busy.ask("polite")
    assert busy.admission.statistics()["waiting"] == MOST_OF_USER[Kind.ORDINARY] + 1
    assert {user for user, _ in busy.refused} == {"greedy"}
    busy.done(4)
    assert "polite" in busy.users[-4:]


def test_refusals_tell_when_to_come_back_and_not_everybody_at_once() -> None:
    busy = Busy()
    busy.fill()
    for number in range(MOST_WAITING[Kind.ORDINARY] + 50):
        busy.ask(f"user {number}")
    waits = [error.retry_after_ms for _, error in busy.refused]
    assert len(waits) == 50
    assert min(waits) >= 1000
    assert len(set(waits)) > 25


def test_a_few_greedy_ones_do_not_fill_the_queue() -> None:
    """Each within their share; who comes after them waits for a turn as they do, and has it as soon."""
    busy = Busy()
    busy.fill()
    for _ in range(MOST_OF_USER[Kind.ORDINARY]):
        for number in range(2 * MOST_WAITING[Kind.ORDINARY] // MOST_OF_USER[Kind.ORDINARY]):
            busy.ask(f"greedy {number}")
    for _ in range(4):
        busy.ask("polite")
    assert "polite" not in {user for user, _ in busy.refused}
    assert busy.admission.statistics()["waiting"] < MOST_WAITING[Kind.ORDINARY]
    busy.done(64)
    assert "polite" in busy.users


def test_who_goes_on_asking_is_answered_late() -> None:
    busy = Busy()
    busy.fill()
    for _ in range(MOST_OF_USER[Kind.ORDINARY] + PATIENT_REFUSALS + 3):
        busy.ask("greedy")
    assert len(busy.refused) == PATIENT_REFUSALS
    busy.wait(HOLD + LOOK)
    assert len(busy.refused) == PATIENT_REFUSALS + 3


def test_who_would_wait_too_long_is_refused_at_once() -> None:
    """By what began lately: where two hundred a second begin, five hundred wait."""
    busy = Busy()
    busy.fill()
    for number in range(1600):
        busy.ask(f"user {number}")
        if number % 50 == 49:
            busy.done(50)
            busy.wait(0.25)
    assert not busy.refused
    for number in range(700):
        busy.ask(f"late user {number}")
    assert 150 < len(busy.refused) < 250


@pytest.mark.parametrize("kind", [Kind.ORDINARY, Kind.HEAVY])
def test_fifty_connections_of_one_user_are_no_overload(kind: Kind) -> None:
    """Nor of one address where nobody is logged in: who waits for each answer is never refused, be it slow."""
    busy = Busy()
    for _ in range(50):
        busy.ask("somebody", kind)
    for _ in range(100):
        busy.wait(0.2)
        busy.done()
        busy.ask("somebody", kind)
    assert not busy.refused


def test_half_of_the_places_for_one_user_or_room() -> None:
    """Who is stuck in a slow room takes no place from the others."""
    busy = Busy()
    half = MOST_RUNNING[Kind.ORDINARY] // 2
    for number in range(half + 5):
        busy.ask(f"user {number}", room="!slow:test")
    busy.ask("somebody", room="!other:test")
    assert len(busy.begun) == half + 1
    assert busy.users[-1] == "somebody"
    busy.done()
    assert busy.users[-1] == f"user {half}"


def test_what_has_waited_too_long_is_not_begun() -> None:
    busy = Busy()
    busy.fill()
    busy.ask("late")
    busy.clock.advance(PATIENCE[Kind.ORDINARY] + 0.1)
    busy.done()
    assert [user for user, _ in busy.refused] == ["late"]


def test_nothing_is_done_for_who_has_left() -> None:
    busy = Busy()
    busy.fill()
    busy.ask("a")
    busy.ask("b")
    busy.gone.add("a")
    busy.done()
    assert busy.users[-1] == "b"
    assert [user for user, _ in busy.refused] == ["a"]
    assert busy.admission.statistics()["refused"] == 0


def test_heavy_ones_come_after_the_others() -> None:
    """Some at a time; while others wait, two."""
    busy = Busy()
    busy.fill(Kind.HEAVY)
    busy.ask("heavy", Kind.HEAVY)
    assert len(busy.begun) == MOST_RUNNING[Kind.HEAVY]
    busy.fill()
    busy.ask("light")
    busy.done(MOST_RUNNING[Kind.HEAVY] - FEW_HEAVY)
    assert "heavy" not in busy.users
    busy.done()
    assert "heavy" in busy.users


def test_heavy_ones_are_refused_where_memory_is_short() -> None:
    busy = Busy()
    busy.admission.looked(True, short_of_memory=True)
    busy.fill(Kind.HEAVY)
    busy.ask("heavy", Kind.HEAVY)
    busy.fill()
    busy.ask("light")
    assert [user for user, _ in busy.refused] == ["heavy"]


def test_what_waits_for_something_else_takes_no_place() -> None:
    """A join over a slow server, a long-poll."""
    busy = Busy()
    for _ in range(MOST_RUNNING[Kind.ORDINARY] + 10):
        busy.ask("polls", takes_place=False)
    assert len(busy.begun) == MOST_RUNNING[Kind.ORDINARY] + 10
    busy.fill()
    busy.ask("waits")
    busy.wait(PLACE_SECONDS[Kind.ORDINARY] + 2 * LOOK)
    assert busy.users[-1] == "waits"


@pytest.mark.parametrize(
    ("kind", "late", "most"),
    [
        (Kind.ORDINARY, 0.3, 64),
        (Kind.ORDINARY, 0.0, 256),
        (Kind.HEAVY, 0.3, 8),
        (Kind.HEAVY, 0.0, 32),
    ],
)
def test_who_asks_for_what_is_slow_gets_no_more_places_for_it(kind: Kind, late: float, most: int) -> None:
    """It may all wait for the database, where others would then wait behind it. What ends makes room for the next."""
    busy = Busy()
    for _ in range(10):
        for _ in range(50):
            busy.ask("greedy", kind)
        busy.ask("polite", kind)
        assert busy.users[-1] == "polite"
        busy.admission.done(busy.begun.pop())
        busy.wait(PLACE_SECONDS[kind] + 2 * late + 2 * LOOK, database=late)
    assert len(busy.begun) == most
    busy.done(2)
    for _ in range(3):
        busy.ask("greedy", kind)
    assert len(busy.begun) == most
    assert busy.admission.statistics()["running"] == 2


def test_what_waits_for_another_server_shuts_its_user_out_of_nothing() -> None:
    """Thumbnails of one that is away, twenty seconds each, leave places to whoever wants to read a room besides."""
    busy = Busy()
    for _ in range(4):
        for _ in range(MOST_RUNNING[Kind.HEAVY] // 2):
            busy.ask("alice", Kind.HEAVY)
        busy.wait(PLACE_SECONDS[Kind.HEAVY] + 2 * LOOK)
    assert len(busy.begun) == 16
    busy.ask("alice", Kind.HEAVY)
    assert len(busy.begun) == 17
    assert not busy.refused


def test_long_polls_do_not_wait_for_what_is_slow() -> None:
    """They ask nobody for anything, however much else of their user is under way."""
    busy = Busy()
    late = 0.3
    for _ in range(64):
        busy.ask("greedy")
    busy.wait(PLACE_SECONDS[Kind.ORDINARY] + 2 * late + 2 * LOOK, database=late)
    busy.ask("greedy", takes_place=False)
    assert len(busy.begun) == 65


def test_who_has_too_much_begun_is_answered_in_time() -> None:
    """What waits for one of one's own to end is refused when it has waited for long, and strains nobody any more."""
    busy = Busy()
    late = 0.3
    for _ in range(64):
        busy.ask("greedy")
    busy.wait(PLACE_SECONDS[Kind.ORDINARY] + 2 * late + 2 * LOOK, database=late)
    busy.ask("greedy")
    busy.wait(PATIENCE[Kind.ORDINARY] + 2 * LOOK, strained=False, database=late)
    assert [user for user, _ in busy.refused] == ["greedy"]
    assert not busy.asks()
    busy.done(64)


def test_what_waits_for_a_late_database_keeps_its_place() -> None:
    """Or many users would have ever more of it wait there. What takes still longer waits for something else."""
    busy = Busy()
    busy.fill()
    busy.ask("waits", Kind.ORDINARY)
    busy.wait(PATIENCE[Kind.ORDINARY] - 2 * LOOK, database=2.0)
    assert len(busy.begun) == MOST_RUNNING[Kind.ORDINARY]
    busy.wait(2.0, database=2.0)
    busy.wait(2.0, database=2.0)
    busy.ask("waits", Kind.ORDINARY)
    assert busy.users[-1] == "waits"


def test_what_gave_its_place_away_moves_the_queue_no_faster() -> None:
    """Who would wait too long is told so by what ends."""
    busy = Busy()
    for turn in range(3):
        for number in range(MOST_RUNNING[Kind.ORDINARY]):
            busy.ask(f"user {turn} {number}")
        busy.wait(PLACE_SECONDS[Kind.ORDINARY] + 2 * LOOK)
        busy.done(8)
    busy.fill()
    assert not busy.refused
    for number in range(60):
        busy.ask(f"late {number}")
    assert 40 < len(busy.refused) < 60


def test_free_ones_go_by_in_moderation() -> None:
    busy = Busy()
    passed = [busy.admission.passes_free("alice") for _ in range(FREE_PER_SECOND + 5)]
    assert passed == [True] * FREE_PER_SECOND + [False] * 5
    assert busy.admission.passes_free("bob")
    busy.wait(1.1)
    assert busy.admission.passes_free("alice")


def test_afterwards_nobody_is_asked_and_nothing_is_kept() -> None:
    """The end comes when the strain is over and the last who waited has been served."""
    busy = Busy()
    busy.fill()
    busy.ask("waits")
    busy.wait(0.1, strained=False)
    assert busy.asks()
    busy.done(len(busy.begun))
    busy.wait(0.1, strained=False)
    assert busy.users == ["waits"]
    assert not busy.asks()
    assert busy.admission.statistics() == {"waiting": 0, "running": 0, "held": 0, "refused": 0}
    busy.done()


def test_those_that_end_at_once_do_not_pile_up_on_the_stack() -> None:
    busy = Busy()
    ended: list[Entry] = []

    class AtOnce(Asked):
        def begin(self) -> None:
            ended.append(self)
            busy.admission.done(self)

    busy.fill()
    for number in range(MOST_WAITING[Kind.ORDINARY]):
        busy.admission.ask(AtOnce(busy, Kind.ORDINARY, f"user {number}", None))
    busy.done(len(busy.begun))
    busy.wait(1.0)
    assert len(ended) == MOST_WAITING[Kind.ORDINARY]


def test_turns_of_what_is_no_exchange() -> None:
    """As WebSockets take them: at once while nothing is strained, else in turn, or refused."""
    calm = Admission(Clock())
    assert _now(calm.turn("alice", None)) is None
    busy = Busy()
    busy.fill()
    got: list[Entry | None] = []
    Deferred.fromCoroutine(busy.admission.turn("alice", "!room:test")).addCallback(got.append)
    assert not got
    busy.done()
    assert len(got) == 1
    for _ in range(MOST_OF_USER[Kind.ORDINARY]):
        busy.ask("bob")
    with pytest.raises(LimitExceeded):
        _now(busy.admission.turn("bob", None))


def _now(coroutine: Any) -> object:
    results: list[object] = []
    failures: list[Any] = []
    Deferred.fromCoroutine(coroutine).addCallbacks(results.append, failures.append)
    if failures:
        failures[0].raiseException()
    return results[0]


def test_figures() -> None:
    """What was refused, by kind and reason, who waits, and what everybody waits for."""
    busy = Busy()
    registry = CollectorRegistry()
    registry.register(busy.admission)
    busy.fill()
    for _ in range(MOST_OF_USER[Kind.ORDINARY] + 2):
        busy.ask("greedy")
    text = render(registry).decode()
    assert 'lares_overload_refused_total{kind="ordinary",reason="share"} 2.0' in text
    assert f'lares_overload_waiting{{kind="ordinary"}} {MOST_OF_USER[Kind.ORDINARY]}.0' in text
    assert "lares_overload 1.0" in text
