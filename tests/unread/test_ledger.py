# SPDX-License-Identifier: Apache-2.0
"""What one user has not read in one room, against keeping every notification and receipt there ever was."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from homeserver.unread import Counts, UnreadCounts
from homeserver.unread.ledger import MAIN, MOST, UNTHREADED, Ledger


@dataclass
class Plain:
    """The same, with nothing ever thrown away."""

    hits: dict[int, tuple[str, bool]] = field(default_factory=dict)
    reads: list[tuple[str, int]] = field(default_factory=list)

    def counts(self) -> UnreadCounts:
        threads: dict[str, list[bool]] = {}
        for position, (thread, highlight) in self.hits.items():
            if not any(of in {UNTHREADED, thread} and position <= upto for of, upto in self.reads):
                threads.setdefault(thread, []).append(highlight)
        counted = {thread: Counts(len(lights), sum(lights)) for thread, lights in threads.items()}
        whole = Counts(
            sum(c.notifications for c in counted.values()), sum(c.highlights for c in counted.values())
        )
        return UnreadCounts(whole, counted.pop(MAIN, Counts()), counted)


THREADS = st.sampled_from((MAIN, "$a", "$b"))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("hit"), THREADS, st.booleans()),
        st.tuples(st.just("read"), st.one_of(THREADS, st.just(UNTHREADED)), st.integers(0, 30)),
        st.tuples(st.just("strike"), st.just(""), st.integers(0, 30)),
    ),
    max_size=30,
)


@given(STEPS)
def test_nothing_that_is_forgotten_matters(steps: list[tuple[str, str, int]]) -> None:
    """Any order of notifications, receipts (also ahead of what was looked at) and redactions."""
    ledger, plain = Ledger(0), Plain()
    for position, (verb, thread, value) in enumerate(steps, 1):
        if verb == "hit":
            ledger.add(thread, position, highlight=bool(value))
            plain.hits[position] = (thread, bool(value))
        elif verb == "read":
            ledger.read(thread, value)
            plain.reads.append((thread, value))
        else:
            ledger.strike(value)
            plain.hits.pop(value, None)
        ledger.advance(position)
        assert ledger.counts == plain.counts()
        assert ledger.is_empty == (ledger.counts.room.notifications == 0)


def test_the_newest_of_very_many_are_kept() -> None:
    """Beyond the limit the oldest go, whatever their thread."""
    ledger = Ledger(0)
    for position in range(1, MOST + 6):
        ledger.add(MAIN if position % 2 else "$a", position, highlight=position <= 5)
        ledger.advance(position)
    assert ledger.counts.room == Counts(MOST, 0)
    ledger.read(UNTHREADED, MOST + 4)
    assert ledger.counts == UnreadCounts(Counts(1, 0), Counts(1, 0), {})


def test_what_came_before_the_user_is_read() -> None:
    """The position the membership began at is where counting begins."""
    ledger = Ledger(10)
    ledger.add(MAIN, 10, highlight=False)
    ledger.add(MAIN, 11, highlight=False)
    assert ledger.counts.room == Counts(1, 0)
