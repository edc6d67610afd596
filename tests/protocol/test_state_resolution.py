# SPDX-License-Identifier: Apache-2.0
"""State resolution: the well-known conflicts, the problems MSC4297 solves, and hostile or very large rooms."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

from homeserver.protocol.events import Event
from homeserver.protocol.state_resolution import EventsInMemory, StateKey, resolve
from tests.protocol.rooms import ALICE, ALL_VERSIONS, BOB, CAROL, DAVE, Room, StateMap, public_room, versions

LEVELS, RULES, TOPIC = ("m.room.power_levels", ""), ("m.room.join_rules", ""), ("m.room.topic", "")
EVELYN = "@evelyn:evelyn.example"
since_version_2 = pytest.mark.parametrize("version", versions(2))


def member(user: str) -> StateKey:
    return "m.room.member", user


class Fork:
    """One branch of a room: grows on its own state, which begins as the room's."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.state: StateMap = dict(room.state)

    def send(
        self, event_type: str, sender: str, content: Mapping[str, Any], state_key: str = "", **more: Any
    ) -> Event:
        event = self.room.event(event_type, sender, content, state_key, state=self.state, **more)
        self.room.events[event.event_id] = event
        self.state[event.state_tuple] = event
        return event

    def levels(self, sender: str, *, ts: int | None = None, **users: int) -> Event:
        return self.send("m.room.power_levels", sender, self.room.levels(None, **users), ts=ts)

    def topic(self, sender: str, **more: Any) -> Event:
        return self.send("m.room.topic", sender, {"topic": "t"}, **more)

    def member(self, user: str, membership: str, by: str | None = None, **more: Any) -> Event:
        return self.send("m.room.member", by or user, {"membership": membership}, user, **more)


def ids(state: Mapping[StateKey, Event]) -> dict[StateKey, str]:
    return {key: event.event_id for key, event in state.items()}


def resolution(room: Room, *states: Mapping[StateKey, Event], rejected: Collection[str] = ()) -> StateMap:
    """Resolve the states in both orders, which must agree."""
    source = EventsInMemory(room.events, rejected)
    state_sets = [ids(state) for state in states]
    result = resolve(room.version, state_sets, source)
    assert resolve(room.version, state_sets[::-1], source) == result
    return {key: room.events[event_id] for key, event_id in result.items()}


@pytest.mark.parametrize("version", ALL_VERSIONS)
class TestNoConflict:
    def test_nothing(self, version: str) -> None:
        assert resolve(Room(version).version, [], EventsInMemory({})) == {}

    def test_agreement_asks_the_source_nothing(self, version: str) -> None:
        room = public_room(version, BOB)
        state = ids(room.state)
        assert resolve(room.version, [state], EventsInMemory({})) == state
        assert resolve(room.version, [state, dict(state)], EventsInMemory({})) == state


class TestVersion1:
    def room(self) -> tuple[Room, Fork, Fork]:
        room = public_room("1", BOB, bob=50)
        return room, Fork(room), Fork(room)

    def test_a_key_that_one_state_lacks_is_no_conflict(self) -> None:
        room, left, right = self.room()
        joined = left.member(CAROL, "join")
        assert resolution(room, left.state, right.state)[member(CAROL)] == joined

    def test_deepest_topic_wins(self) -> None:
        room, left, right = self.room()
        deep = left.topic(ALICE, depth=20)
        right.topic(ALICE, depth=10)
        assert resolution(room, left.state, right.state)[TOPIC] == deep

    def test_deepest_allowed_topic_wins(self) -> None:
        room, left, right = self.room()
        left.topic(CAROL, depth=20)
        allowed = right.topic(ALICE, depth=10)
        assert resolution(room, left.state, right.state)[TOPIC] == allowed

    def test_levels_follow_each_other_by_depth_until_one_is_not_allowed(self) -> None:
        room, left, right = self.room()
        demotion = left.levels(ALICE, alice=100)
        right.levels(BOB, alice=100, bob=50, carol=50)
        assert resolution(room, left.state, right.state)[LEVELS] == demotion

    def test_if_nothing_is_allowed_the_shallowest_stays(self) -> None:
        room, left, right = self.room()
        shallow = left.topic(CAROL, depth=10)
        right.topic(CAROL, depth=20)
        assert resolution(room, left.state, right.state)[TOPIC] == shallow


@since_version_2
class TestWellKnown:
    def test_a_ban_beats_the_banned_moderators_power_levels(self, version: str) -> None:
        room = public_room(version, BOB, bob=50)
        before = room.state[LEVELS]
        left, right = Fork(room), Fork(room)
        ban = left.member(BOB, "ban", by=ALICE, ts=100)
        right.levels(BOB, ts=50, alice=100, bob=50, carol=50)
        result = resolution(room, left.state, right.state)
        assert result[member(BOB)] == ban
        assert result[LEVELS] == before

    def test_a_demotion_beats_the_demoted_ones_power_levels(self, version: str) -> None:
        room = public_room(version, BOB, bob=50)
        left, right = Fork(room), Fork(room)
        demotion = left.levels(ALICE, ts=100, alice=100)
        right.levels(BOB, ts=50, alice=100, bob=50, carol=50)
        assert resolution(room, left.state, right.state)[LEVELS] == demotion

    def test_closing_the_room_beats_a_concurrent_join(self, version: str) -> None:
        room = public_room(version)
        left, right = Fork(room), Fork(room)
        closed = left.send("m.room.join_rules", ALICE, {"join_rule": "invite"}, ts=100)
        right.member(EVELYN, "join", ts=50)
        result = resolution(room, left.state, right.state)
        assert result[RULES] == closed
        assert member(EVELYN) not in result

    def test_a_kick_beats_what_the_kicked_does_meanwhile(self, version: str) -> None:
        room = public_room(version, BOB, bob=50)
        topic = Fork(room)
        first = topic.topic(ALICE)
        room.state = topic.state
        left, right = Fork(room), Fork(room)
        kick = left.member(BOB, "leave", by=ALICE, ts=100)
        right.topic(BOB, ts=50)
        result = resolution(room, left.state, right.state)
        assert (result[member(BOB)], result[TOPIC]) == (kick, first)

    def test_topics_on_the_same_power_levels_go_by_time_then_id(self, version: str) -> None:
        room = public_room(version, BOB, bob=50)
        left, right = Fork(room), Fork(room)
        later = left.topic(ALICE, ts=60)
        right.topic(BOB, ts=50)
        assert resolution(room, left.state, right.state)[TOPIC] == later
        tied = right.topic(BOB, ts=60, event_id=room.id("zzz"))
        assert resolution(room, left.state, right.state)[TOPIC] == tied

    def test_a_topic_on_newer_power_levels_wins_whatever_its_clock(self, version: str) -> None:
        room = public_room(version, BOB, bob=50)
        left, right = Fork(room), Fork(room)
        left.topic(ALICE, ts=900)
        right.levels(ALICE, ts=20, alice=100, bob=50, carol=50)
        newer = right.topic(BOB, ts=10)
        assert resolution(room, left.state, right.state)[TOPIC] == newer

    def test_mainline_counts_from_power_levels_that_won(self, version: str) -> None:
        """A topic on a losing branch of power levels stands where that branch left the mainline."""
        room = public_room(version, BOB, CAROL, bob=50, carol=50)
        left, right = Fork(room), Fork(room)
        left.levels(ALICE, ts=10, alice=100, carol=50)
        right.levels(BOB, ts=11, alice=100, bob=50, carol=50, dave=50)
        right.topic(CAROL, ts=900)
        newer = left.topic(CAROL, ts=20)
        assert resolution(room, left.state, right.state)[TOPIC] == newer

    def test_power_levels_do_not_reset_to_a_stale_copy(self, version: str) -> None:
        room = public_room(version, BOB, bob=100)
        old = dict(room.state)
        room.power_levels({"ban": 60}, alice=100, bob=100)
        room.power_levels({"ban": 70}, alice=100, bob=100)
        assert resolution(room, room.state, old)[LEVELS] == room.state[LEVELS]

    def test_agreed_power_levels_are_not_replayed_where_only_one_side_cites_them(self, version: str) -> None:
        """Replayed, they would come between the rules set before and after them, and overrule the clock."""
        room = public_room(version)
        older = room.send("m.room.join_rules", ALICE, {"join_rule": "public"}, "", ts=20)
        room.send("m.room.power_levels", ALICE, room.levels({"ban": 51}, alice=100), "", ts=100)
        left, right = Fork(room), Fork(room)
        left.send("m.room.join_rules", ALICE, {"join_rule": "invite"}, ts=10)
        assert resolution(room, left.state, right.state)[RULES] == older

    def test_a_rejected_auth_event_lends_no_authority(self, version: str) -> None:
        room = public_room(version)
        left, right = Fork(room), Fork(room)
        raised = left.levels(ALICE, alice=100, bob=50)
        joined = left.member(BOB, "join")
        del left.state[LEVELS]
        topic = left.send("m.room.topic", BOB, {}, auth=[*room_auth(room), raised.event_id, joined.event_id])
        states = ({**room.state, TOPIC: topic, member(BOB): joined}, {**right.state, member(BOB): joined})
        bare = tuple({key: event for key, event in state.items() if key != LEVELS} for state in states)
        assert resolution(room, *bare)[TOPIC] == topic
        assert TOPIC not in resolution(room, *bare, rejected={raised.event_id})


def room_auth(room: Room) -> list[str]:
    return [room.create.event_id] if room.version.create_in_auth_events else []


class TestMsc4297:
    """The problems that version 2.1 is for; version 2 is shown to have them."""

    def problem_a(self, version: str) -> tuple[Room, StateMap, StateMap, Event]:
        """Dave sets the join rules twice and leaves; one state has the older rules by a faulty partial sync."""
        room = public_room(version, DAVE, BOB, dave=50)
        older = room.join_rules("public", by=DAVE)
        newer = room.join_rules("invite", by=DAVE)
        room.member(DAVE, "leave")
        return room, dict(room.state), {**room.state, RULES: older}, newer

    @pytest.mark.parametrize("version", versions(2, 11))
    def test_problem_a_in_version_2(self, version: str) -> None:
        room, right, stale, _ = self.problem_a(version)
        assert RULES not in resolution(room, right, stale)

    def test_advisory_27_problem_a_solved(self) -> None:
        room, right, stale, newer = self.problem_a("12")
        result = resolution(room, right, stale)
        assert result[RULES] == newer
        assert result[member(DAVE)].content["membership"] == "leave"

    def problem_b(self, version: str) -> tuple[Room, StateMap, StateMap]:
        """Alice promotes Bob, Bob promotes Carol; one state has the levels before both by a faulty partial sync,
        though the auth chains of both states, through Dave's join, hold every step.
        """
        room = public_room(version, BOB, CAROL)
        first = room.state[LEVELS]
        room.power_levels(alice=100, bob=80)
        room.power_levels(by=BOB, alice=100, bob=80, carol=50)
        room.member(DAVE, "join")
        return room, dict(room.state), {**room.state, LEVELS: first}

    @pytest.mark.parametrize("version", versions(2, 11))
    def test_problem_b_in_version_2(self, version: str) -> None:
        room, right, stale = self.problem_b(version)
        assert resolution(room, right, stale)[LEVELS] == stale[LEVELS]

    def test_advisory_27_problem_b_solved(self) -> None:
        room, right, stale = self.problem_b("12")
        assert resolution(room, right, stale)[LEVELS] == right[LEVELS]

    def test_unconflicted_state_has_the_last_word(self) -> None:
        """Replaying the graph may touch keys that all states agree on; the agreement stands."""
        room = public_room("12", BOB, CAROL, bob=50)
        left, right = Fork(room), Fork(room)
        kick = left.member(CAROL, "leave", by=BOB)
        right.state[kick.state_tuple] = kick
        left.levels(ALICE)
        right.topic(BOB)
        result = resolution(room, left.state, right.state)
        assert result[member(CAROL)] == kick

    def test_creators_come_before_everyone(self) -> None:
        room = public_room("12", BOB, bob=2**53 - 1)
        left, right = Fork(room), Fork(room)
        demotion = left.levels(ALICE, ts=100)
        right.levels(BOB, ts=1, bob=2**53 - 1, carol=100)
        assert resolution(room, left.state, right.state)[LEVELS] == demotion


class CountingEvents(dict[str, Event]):
    """Events that count how often one is looked up."""

    asked = 0

    def get(self, key: str, default: Any = None) -> Any:
        self.asked += 1
        return super().get(key, default)


class BitmapLikeSource(EventsInMemory, frozen=True):
    """Answers the set questions from its own copy, as a server with stored auth chains would."""

    def auth_difference(
        self, conflicted: Sequence[Collection[str]], unconflicted: Collection[str]
    ) -> set[str]:
        return EventsInMemory(dict(self.events)).auth_difference(conflicted, unconflicted)

    def conflicted_subgraph(self, conflicted: Collection[str]) -> set[str]:
        return EventsInMemory(dict(self.events)).conflicted_subgraph(conflicted)


class TestLargeAndHostile:
    @since_version_2
    def test_a_large_room_costs_look_ups_by_its_conflict_only(self, version: str) -> None:
        room = public_room(version, BOB, bob=50)
        for number in range(2_000):
            room.member(f"@user{number}:x.example", "join")
        left, right = Fork(room), Fork(room)
        left.topic(ALICE)
        kept = right.topic(BOB)
        events = CountingEvents(room.events)
        result = resolve(room.version, [ids(left.state), ids(right.state)], BitmapLikeSource(events))
        assert result[TOPIC] == kept.event_id
        assert len(result) == len(room.state) + 1
        assert events.asked < 100

    @since_version_2
    def test_chains_longer_than_the_stack(self, version: str) -> None:
        room = public_room(version, BOB, bob=100)
        old = dict(room.state)
        for number in range(1_500):
            room.power_levels({"ban": number % 50}, alice=100, bob=100)
        left = Fork(room)
        topic = left.topic(BOB)
        assert resolution(room, left.state, old)[TOPIC] == topic

    @pytest.mark.parametrize("version", ["1", "2"])
    def test_circles_end(self, version: str) -> None:
        room = public_room(version, BOB, bob=50)
        base = room.event("m.room.topic", ALICE, {}, "").auth_event_ids
        good = room.state[LEVELS]
        content = room.levels(None, alice=100, bob=50)
        members: list[Event] = []
        for name, other in (("a", "b"), ("b", "a")):
            cites = [*(each for each in base if each != good.event_id), room.id(other)]
            members.append(
                room.event("m.room.power_levels", ALICE, content, "", event_id=room.id(name), auth=cites)
            )
        for event in members:
            room.events[event.event_id] = event
        states: Sequence[StateMap] = [{**room.state, LEVELS: event} for event in (*members, good)]
        topics = [Fork(room), Fork(room)]
        for fork, event in zip(topics, members, strict=True):
            fork.state[LEVELS] = event
            fork.topic(ALICE)
        result = resolution(room, *states, *(fork.state for fork in topics))
        assert result[member(BOB)] == room.state[member(BOB)]

    @pytest.mark.parametrize("version", ALL_VERSIONS)
    def test_missing_events_are_passed_over(self, version: str) -> None:
        room = public_room(version, BOB, bob=50)
        left, right = Fork(room), Fork(room)
        lost = left.topic(ALICE, depth=1)
        kept = right.topic(BOB, depth=2)
        levels = right.levels(ALICE, alice=100, bob=50, carol=20)
        for gone in (lost, room.state[member(ALICE)], room.create):
            events = {key: event for key, event in room.events.items() if event is not gone}
            result = resolve(room.version, [ids(left.state), ids(right.state)], EventsInMemory(events))
            if gone is not room.create:
                assert result[TOPIC] == kept.event_id
            elif version != "1":
                assert TOPIC not in result
            if gone is lost:
                assert result[LEVELS] == levels.event_id
            assert result[member(BOB)] == room.state[member(BOB)].event_id
