# SPDX-License-Identifier: Apache-2.0
"""State resolution over random histories: equal to the plain version, independent of every order."""

from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homeserver.protocol.event_auth import AuthError, check_event_auth
from homeserver.protocol.events import Event
from homeserver.protocol.state_resolution import EventsInMemory, resolve
from tests.protocol import plain_state_resolution as plain
from tests.protocol.rooms import ALICE, BOB, CAROL, DAVE, Room, StateMap

USERS = (ALICE, BOB, CAROL, DAVE)
States = list[dict[tuple[str, str], str]]


@dataclass(frozen=True)
class History:
    """A room's events and the states of some of its branches."""

    room: Room
    states: States


@st.composite
def actions(draw: st.DrawFn) -> tuple[str, str, dict[str, Any], str]:
    """Something a user may try: `(type, sender, content, state key)`."""
    sender = draw(st.sampled_from(USERS))
    kind = draw(
        st.sampled_from(["topic", "name", "levels", "rules", "join", "leave", "kick", "ban", "invite"])
    )
    other = draw(st.sampled_from(USERS))
    if kind in ("topic", "name"):
        return f"m.room.{kind}", sender, {kind: "x"}, ""
    if kind == "rules":
        return "m.room.join_rules", sender, {"join_rule": draw(st.sampled_from(["public", "invite"]))}, ""
    if kind == "levels":
        users = {user: draw(st.sampled_from([0, 50, 100])) for user in USERS}
        named = {"ban": draw(st.sampled_from([0, 50]))}
        return "m.room.power_levels", sender, {"users": users, "state_default": 50, **named}, ""
    target = sender if kind in ("join", "leave") else other
    return "m.room.member", sender, {"membership": "leave" if kind == "kick" else kind}, target


@st.composite
def histories(draw: st.DrawFn, version: str) -> History:
    """Branches that grow by what the rules allow, with clocks that disagree; then states as they were after some
    events, in which now and then an older event stands in for the right one, as after a faulty partial sync.
    """
    room = Room(version)
    room.member(ALICE, "join")
    room.power_levels(alice=100, bob=50)
    room.join_rules("public")
    ends: list[StateMap] = [dict(room.state)]
    for event_type, sender, content, state_key in draw(st.lists(actions(), min_size=8, max_size=30)):
        base = ends[draw(st.integers(max(0, len(ends) - 5), len(ends) - 1))]
        if version == "12":
            content.get("users", {}).pop(ALICE, None)
        clock = draw(st.integers(1, 12))
        event = room.event(event_type, sender, content, state_key, state=base, ts=clock, depth=clock)
        try:
            check_event_auth(event, base)
        except AuthError:
            continue
        room.events[event.event_id] = event
        ends.append({**base, event.state_tuple: event})
    states: States = []
    by_key: dict[tuple[str, str], list[Event]] = {}
    for event in room.events.values():
        by_key.setdefault(event.state_tuple, []).append(event)
    for index in draw(st.lists(st.integers(0, len(ends) - 1), min_size=2, max_size=4)):
        state = {key: event.event_id for key, event in ends[index].items()}
        for key in draw(st.lists(st.sampled_from(sorted(state)), max_size=2)):
            if key[0] != "m.room.create" and draw(st.booleans()):
                state[key] = draw(st.sampled_from(by_key[key])).event_id
        states.append(state)
    return History(room, states)


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
