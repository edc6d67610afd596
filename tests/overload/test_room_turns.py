# SPDX-License-Identifier: Apache-2.0
"""The queue of one room: by turns among those who send."""

from hypothesis import given
from hypothesis import strategies as st

from homeserver.rooms.engine.turns import by_turns


def _owner(what: tuple[str, int]) -> str:
    return what[0]


def test_nobodys_first_waits_for_anothers_second() -> None:
    greedy = [("greedy", number) for number in range(600)]
    polite = [(f"polite {number}", 0) for number in range(30)]
    ordered = by_turns([*greedy, *polite], _owner)
    assert {owner for owner, _ in ordered[:31]} == {"greedy", *(owner for owner, _ in polite)}


@given(owners=st.lists(st.sampled_from("abcde"), max_size=60))
def test_nothing_is_lost_and_each_ones_order_stays(owners: list[str]) -> None:
    queue = [(owner, number) for number, owner in enumerate(owners)]
    ordered = by_turns(queue, _owner)
    assert sorted(ordered, key=lambda each: each[1]) == queue
    for owner in set(owners):
        mine = [number for each, number in ordered if each == owner]
        assert mine == sorted(mine)
    assert by_turns(ordered, _owner) == ordered
