# SPDX-License-Identifier: Apache-2.0
"""The position that may be shown: never beyond a hole, whatever order the news comes in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from homeserver.stream.changes import LatestPositions
from homeserver.stream.positions import Positions


@given(st.lists(st.integers(1, 5), max_size=30), st.randoms())
def test_the_position_moves_only_over_what_is_known(counts: list[int], random: object) -> None:
    """Ranges heard in any order, some twice: at each point the position is the end of the unbroken beginning."""
    ranges, before = [], 0
    for count in counts:
        ranges.append((before, count))
        before += count
    heard = ranges + ranges[::3]
    random.shuffle(heard)  # type: ignore[attr-defined]
    positions = Positions(0)
    known: set[int] = set()
    for start, count in heard:
        positions.learn(start, count)
        known.update(range(start + 1, start + count + 1))
        expected = 0
        while expected + 1 in known:
            expected += 1
        assert positions.current == expected
    assert positions.waiting == 0


def test_a_jump_takes_along_what_was_heard_beyond() -> None:
    """After a read-up to 10, ranges from 10 on count at once."""
    positions = Positions(0)
    positions.learn(10, 2)
    positions.learn(4, 3)
    positions.jump(10)
    assert (positions.current, positions.waiting) == (12, 0)


def test_what_is_forgotten_may_have_changed() -> None:
    """A bounded memory answers "maybe" for what it let go, and never a wrong no."""
    latest: LatestPositions[str] = LatestPositions(5, capacity=2)
    latest.record(["a"], 6)
    latest.record(["b"], 7)
    latest.record(["c"], 8)
    assert latest.may_have_changed("a", 5)
    assert not latest.may_have_changed("b", 7)
    assert latest.may_have_changed("c", 7)
    assert not latest.may_have_changed("unheard of", 6)
    latest.forget_all(9)
    assert latest.may_have_changed("b", 8)
    assert not latest.may_have_changed("b", 9)


def test_what_is_known_above_a_hole_stays_known() -> None:
    latest: LatestPositions[str] = LatestPositions(0)
    latest.record(["room"], 11)
    latest.record(["another"], 12)
    latest.record(["below", "third"], 9)
    latest.forget_all(10)
    assert latest.may_have_changed("room", 10) and latest.may_have_changed("another", 11)
    assert latest.may_have_changed("below", 9) and not latest.may_have_changed("below", 10)
    assert not latest.may_have_changed("unheard of", 10)


def test_news_heard_late_hides_nothing_newer() -> None:
    """A key was forgotten together with something newer of it than what is heard of it afterwards."""
    latest: LatestPositions[str] = LatestPositions(0)
    latest.forget_all(100)
    latest.record(["room"], 90)
    assert latest.may_have_changed("room", 95)
    assert not latest.may_have_changed("room", 100)


def test_news_heard_late_hides_nothing_in_the_older_generation() -> None:
    latest: LatestPositions[str] = LatestPositions(0, capacity=2)
    latest.record(["room"], 10)
    latest.record(["other"], 11)
    latest.record(["room", "third"], 5)
    assert latest.may_have_changed("room", 9) and not latest.may_have_changed("room", 10)
    assert latest.may_have_changed("third", 4) and not latest.may_have_changed("third", 5)
