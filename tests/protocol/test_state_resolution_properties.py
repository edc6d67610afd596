# SPDX-License-Identifier: Apache-2.0
"""State resolution over random histories: equal to the plain version, independent of every order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homeserver.protocol.event_auth import AuthError, check_event_auth
from homeserver.protocol.events import Event
from homeserver.protocol.state_resolution import EventsInMemory, resolve
from tests.protocol import plain_state_resolution as plain
from tests.protocol.rooms import ALICE, BOB, CAROL, DAVE, Room, StateMap

USERS = (ALICE, BOB, CAROL, DAVE)
T = TypeVar("T")
States = list[dict[tuple[str, str], str]]


@dataclass(frozen=True)
class History:
    """A room's events and the states of some of its branches."""

    room: Room
    states: States


class Choices:
    """Choices read off bytes; the first of everything once they have come to an end.

    Hypothesis draws them all at once, in a tenth of the time that a draw for each takes, and shrinks them no worse: to
    fewer and earlier choices.
    """

    SIZE = 320
    """Bytes that are enough for any history."""

    def __init__(self, data: bytes) -> None:
        self._data = iter(data)

    def number(self, low: int, high: int) -> int:
        """One of those from `low` to `high`."""
        return low + next(self._data, 0) % (high - low + 1)

    def one(self, options: Sequence[T]) -> T:
        return options[self.number(0, len(options) - 1)]


def _action(choices: Choices) -> tuple[str, str, dict[str, Any], str]:
    """Something a user may try: `(type, sender, content, state key)`."""
    sender = choices.one(USERS)
    kind = choices.one(("topic", "name", "levels", "rules", "join", "leave", "kick", "ban", "invite"))
    if kind in ("topic", "name"):
        return f"m.room.{kind}", sender, {kind: "x"}, ""
    if kind == "rules":
        return "m.room.join_rules", sender, {"join_rule": choices.one(("public", "invite"))}, ""
    if kind == "levels":
        users = {user: choices.one((0, 50, 100)) for user in USERS}
        content = {"users": users, "state_default": 50, "ban": choices.one((0, 50))}
        return "m.room.power_levels", sender, content, ""
    target = sender if kind in ("join", "leave") else choices.one(USERS)
    return "m.room.member", sender, {"membership": "leave" if kind == "kick" else kind}, target


def histories(version: str) -> st.SearchStrategy[History]:
    """Branches that grow by what the rules allow, with clocks that disagree; then states as they were after some
    events, in which now and then an older event stands in for the right one, as after a faulty partial sync.
    """
    drawn = st.binary(min_size=Choices.SIZE, max_size=Choices.SIZE)
    return drawn.map(lambda data: _history(version, Choices(data)))


def _history(version: str, choices: Choices) -> History:
    room = Room(version)
    room.member(ALICE, "join")
    room.power_levels(alice=100, bob=50)
    room.join_rules("public")
    ends: list[StateMap] = [dict(room.state)]
    for _ in range(choices.number(8, 30)):
        event_type, sender, content, state_key = _action(choices)
        base = ends[choices.number(max(0, len(ends) - 5), len(ends) - 1)]
        if version == "12":
            content.get("users", {}).pop(ALICE, None)
        clock = choices.number(1, 12)
        event = room.event(event_type, sender, content, state_key, state=base, ts=clock, depth=clock)
        try:
            check_event_auth(event, base)
        except AuthError:
            continue
        room.events[event.event_id] = event
        ends.append({**base, event.state_tuple: event})
    by_key: dict[tuple[str, str], list[Event]] = {}
    for event in room.events.values():
        by_key.setdefault(event.state_tuple, []).append(event)
    return History(room, [_state(choices, ends, by_key) for _ in range(choices.number(2, 4))])


def _state(
    choices: Choices, ends: list[StateMap], by_key: dict[tuple[str, str], list[Event]]
) -> dict[tuple[str, str], str]:
    state = {key: event.event_id for key, event in choices.one(ends).items()}
    for _ in range(choices.number(0, 2)):
        key = choices.one(sorted(state))
        if key[0] != "m.room.create" and choices.one((False, True)):
            state[key] = choices.one(by_key[key]).event_id
    return state


def check(history: History, order: list[int]) -> None:
    room, states = history.room, history.states
    result = resolve(room.version, states, EventsInMemory(room.events))
    assert result == plain.resolve(room.events, states, room.version.state_resolution)
    backwards = dict(reversed(room.events.items()))
    shuffled = [dict(reversed(states[index].items())) for index in order]
    assert resolve(room.version, shuffled, EventsInMemory(backwards)) == result


def orders(history: History) -> st.SearchStrategy[list[int]]:
    return st.permutations(range(len(history.states)))


thorough = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@thorough
@given(data=st.data())
def test_version_1(data: st.DataObject) -> None:
    history = data.draw(histories("1"))
    check(history, data.draw(orders(history)))


@thorough
@given(data=st.data())
def test_version_2(data: st.DataObject) -> None:
    history = data.draw(histories("10"))
    check(history, data.draw(orders(history)))


@thorough
@given(data=st.data())
def test_version_2_1(data: st.DataObject) -> None:
    history = data.draw(histories("12"))
    check(history, data.draw(orders(history)))
