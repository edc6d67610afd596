# SPDX-License-Identifier: Apache-2.0
"""Serials of the ephemeral clock only ever grow."""

from hypothesis import given
from hypothesis import strategies as st

from homeserver.stream.ephemeral import MOST_AHEAD, EphemeralClock


@given(st.lists(st.one_of(st.integers(0, 50), st.none()), min_size=2), st.lists(st.integers(0, 60)))
def test_serials_grow_whatever_the_wall_clock_does(times: list[int | None], heard: list[int]) -> None:
    """Standing still, stepping back, and other processes that are ahead."""
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


def test_a_serial_from_the_far_future_moves_it_little() -> None:
    """A client may claim any: neither may serials outgrow their tokens, nor others be led far ahead of the time."""
    clock = EphemeralClock(lambda: 5_000)
    clock.observe(2**63 - 1)
    assert clock.current == 5_000 + MOST_AHEAD
    clock.observe(4_000)
    assert clock.current == 5_000 + MOST_AHEAD
    assert clock.next() == 5_001 + MOST_AHEAD
