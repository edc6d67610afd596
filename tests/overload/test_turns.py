# SPDX-License-Identifier: Apache-2.0
"""The order of those who wait: shares of users and of rooms, and that nothing is lost or given twice."""

from hypothesis import given
from hypothesis import strategies as st

from homeserver.web.turns import Turns


def anything(_what: object) -> bool:
    return True


def taken(turns: Turns[str], count: int) -> list[str]:
    result = [turns.take(anything) for _ in range(count)]
    return [each for each in result if each is not None]


def test_a_greedy_user_waits_for_everybody_else() -> None:
    """Whoever asks once among a thousand requests of another has the second turn at the latest."""
    turns: Turns[str] = Turns()
    for _ in range(1000):
        turns.put("greedy", "@greedy:test", None)
    for name in ("a", "b", "c"):
        turns.put(name, f"@{name}:test", None)
    assert {"a", "b", "c"} <= set(taken(turns, 7))


def test_a_busy_room_waits_for_the_others() -> None:
    """A thousand people in one room take half the turns from who is alone in another, and no more."""
    turns: Turns[str] = Turns()
    for number in range(1000):
        turns.put("crowd", f"@{number}:test", "!crowd:test")
    for _ in range(5):
        turns.put("alone", "@alone:test", "!quiet:test")
    assert taken(turns, 24).count("alone") == 5


def test_a_thousand_rooms_are_one_user_still() -> None:
    """Who has every room to himself gains nothing in the turns between users."""
    turns: Turns[str] = Turns()
    for number in range(1000):
        turns.put("many", "@many:test", f"!{number}:test")
    for number in range(10):
        turns.put("few", f"@{number}:test", "!shared:test")
    assert taken(turns, 22).count("few") >= 9


def test_first_come_first_served_of_one_user_in_one_room() -> None:
    turns: Turns[str] = Turns()
    for number in range(60):
        turns.put(f"{number % 3}:{number:02}", "@alice:test", f"!{number % 3}:test")
    order = taken(turns, 60)
    for room in "012":
        of_room = [each for each in order if each.startswith(room)]
        assert len(of_room) == 20
        assert of_room == sorted(of_room)


def test_who_may_not_come_now_keeps_nobody_else() -> None:
    """A room all of whose places are taken, and a user's; they are next when they may."""
    turns: Turns[str] = Turns()
    for number in range(100):
        turns.put("crowd", f"@{number}:test", "!full:test")
    turns.put("other", "@other:test", "!other:test")
    assert turns.take(lambda what: what != "crowd") == "other"
    assert turns.take(lambda what: what != "crowd") is None
    assert len(turns) == 100
    assert taken(turns, 100) == ["crowd"] * 100


@given(
    steps=st.lists(
        st.one_of(st.none(), st.tuples(st.integers(0, 4), st.one_of(st.none(), st.integers(0, 3)))),
        max_size=80,
    )
)
def test_each_is_taken_once(steps: list[tuple[int, int | None] | None]) -> None:
    """Whatever comes in between: counts are right, and what waits is what was put and not yet taken."""
    turns: Turns[int] = Turns()
    waiting: dict[int, str] = {}
    for number, step in enumerate(steps):
        if step is None:
            found = turns.take(anything)
            assert (found is None) == (not waiting)
            if found is not None:
                del waiting[found]
        else:
            user, room = step
            turns.put(number, f"@{user}", None if room is None else f"!{room}")
            waiting[number] = f"@{user}"
        assert len(turns) == len(waiting)
        assert turns.users == len(set(waiting.values()))
        assert turns.waiting_of("@1") == list(waiting.values()).count("@1")
    assert {turns.take(anything) for _ in range(len(waiting))} == set(waiting)
    assert turns.take(anything) is None
