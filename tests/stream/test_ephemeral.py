# SPDX-License-Identifier: Apache-2.0
"""Serials of the ephemeral clock only ever grow, and whoever heard the same gives the same."""

from hypothesis import given
from hypothesis import strategies as st

from homeserver.stream.ephemeral import MOST_AHEAD, EphemeralClock


@given(st.lists(st.one_of(st.integers(0, 50), st.none()), min_size=2), st.lists(st.integers(0, 60)))
def test_serials_grow_whatever_the_wall_clock_does(times: list[int | None], heard: list[int]) -> None:
    """Standing still, stepping back, and clients of other processes that are ahead."""
    wall = [time for time in times if time is not None] or [0]
    clock = EphemeralClock(lambda: wall.pop(0) if len(wall) > 1 else wall[0])
    serials = [clock.current]
    for _ in times:
        if heard:
            clock.observe(heard[0])
            serials.append(max(serials[-1], heard.pop(0)))
        serials.append(clock.next())
        assert serials[-1] > serials[-2]
        assert clock.current == serials[-1]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=40),
    st.lists(st.integers(-30, 30), min_size=3, max_size=3),
)
def test_whoever_heard_the_same_gives_the_same(news: list[tuple[int, int]], skew: list[int]) -> None:
    """However their wall clocks differ, whatever tokens they were shown, and though one of them came late."""
    wall = 1_000
    clocks = [EphemeralClock(lambda ahead=ahead: wall + ahead) for ahead in skew]  # type: ignore[misc]
    for number, (maker, passed) in enumerate(news):
        wall += passed
        clocks[maker].observe(clocks[maker].current + passed)
        proposed = clocks[maker].propose()
        present = clocks if number or maker == 2 else clocks[1:]  # the first missed the beginning
        heard = {clock.apply(proposed) for clock in present}
        assert len(heard) == 1 or proposed <= clocks[0].current


def test_a_serial_from_the_far_future_moves_it_little() -> None:
    """A client may claim any: neither may serials outgrow their tokens, nor others be led far ahead of the time."""
    clock = EphemeralClock(lambda: 5_000)
    clock.observe(2**63 - 1)
    assert clock.current == 0
    assert clock.propose() == 5_001 + MOST_AHEAD
    clock.observe(4_000)
    assert clock.next() == 5_001 + MOST_AHEAD
