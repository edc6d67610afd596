# SPDX-License-Identifier: Apache-2.0
"""Which rule an event meets: a user's rules compiled, and asked of one event after the other.

Owns the order of rules and what is computed once for all users. A default rule that does not ask who the user is
(all but two) is compiled once for everybody, and its answer is remembered with the event, so that for the second user
of a room on, an ordinary message costs a look into a dictionary per rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from homeserver.protocol.push_rules.conditions import (
    MAX_STEPS,
    NEVER,
    Condition,
    ContainsDisplayName,
    ContainsOwnId,
    EventMatch,
    PropertyIs,
    Reader,
    RoomFacts,
    compile_condition,
)
from homeserver.protocol.push_rules.defaults import DEFAULT_RULES
from homeserver.protocol.push_rules.event_view import EventView
from homeserver.protocol.push_rules.globs import fold
from homeserver.protocol.push_rules.rules import NOTHING, Actions, Kind, PushRule, read_actions
from homeserver.protocol.push_rules.user_rules import NO_RULES, UserRules

_ROOM_ID: Final = ("room_id",)
_TYPE: Final = ("type",)
_MOST_TYPES: Final = 64
"""Types of events for which it is remembered what applies to them: more than there are, but those are made up."""


class CompiledRule(Struct, frozen=True):
    """A rule that is switched on."""

    conditions: tuple[Condition, ...]
    actions: Actions
    number: int | None = None
    """Under which its answer is remembered with the event, as it is the same for all users; None: it is not."""


class CompiledRules:
    """A user's rules in the order they are checked.

    People have a rule for every room they muted, hundreds of them: rules that name one room are only looked at there.
    And most rules name the type of the events they are for, so that few are left to ask of a message.
    """

    __slots__ = ("_by_type", "_elsewhere", "_in_rooms", "_rules", "needs_display_name")

    def __init__(self, rules: Sequence[CompiledRule]) -> None:
        self._rules = tuple(rules)
        self._elsewhere = tuple(rule for rule in rules if _room_of(rule) is None)
        named = {room for room in map(_room_of, rules) if room is not None}
        self._in_rooms: dict[str, tuple[CompiledRule, ...] | None] = dict.fromkeys(named)
        """For the rooms that rules name, what applies there, once somebody asked."""
        self._by_type: dict[str | None, tuple[CompiledRule, ...]] = {}
        """In any other room, what applies to events of a type, once somebody asked."""
        self.needs_display_name = any(
            isinstance(condition, ContainsDisplayName) for rule in rules for condition in rule.conditions
        )
        """Whether they ask for the user's display name, which the `Reader` must then have."""

    def __iter__(self) -> Iterator[CompiledRule]:
        return iter(self._rules)

    def for_event(self, event: EventView) -> tuple[CompiledRule, ...]:
        """The rules that could match an event, by the room it is in and its type."""
        room = fold(event.room_id)
        if room in self._in_rooms:
            return self._in_room(room)
        of_type = event.text(_TYPE)
        rules = self._by_type.get(of_type)
        if rules is None:
            rules = tuple(rule for rule in self._elsewhere if _may_be_of(rule, of_type))
            if len(self._by_type) < _MOST_TYPES:
                self._by_type[of_type] = rules
        return rules

    def _in_room(self, room: str) -> tuple[CompiledRule, ...]:
        rules = self._in_rooms[room]
        if rules is None:
            rules = tuple(rule for rule in self._rules if _room_of(rule) in {None, room})
            self._in_rooms[room] = rules
        return rules


def _room_of(rule: CompiledRule) -> str | None:
    """The one room, folded, that a rule can match in; None if it might in others."""
    for condition in rule.conditions:
        if isinstance(condition, EventMatch) and condition.path == _ROOM_ID:
            if condition.glob.plain is not None:
                return condition.glob.plain
        elif isinstance(condition, PropertyIs) and condition.path == _ROOM_ID:
            return fold(str(condition.value))
    return None


def _may_be_of(rule: CompiledRule, of_type: str | None) -> bool:
    """False only if the rule is for events of other types, whatever else they are."""
    for condition in rule.conditions:
        if isinstance(condition, EventMatch) and condition.path == _TYPE:
            plain = condition.glob.plain
            if plain is not None and plain != of_type:
                return False
    return True


def _compile_conditions(kind: Kind, rule: PushRule) -> tuple[Condition, ...]:
    if kind is Kind.CONTENT:
        return (NEVER,) if rule.pattern is None else (EventMatch(("content", "body"), rule.pattern),)
    if kind is Kind.ROOM:
        return (PropertyIs(_ROOM_ID, rule.rule_id),)
    if kind is Kind.SENDER:
        return (PropertyIs(("sender",), rule.rule_id),)
    return tuple(compile_condition(condition) for condition in rule.conditions or ())


_DEFAULTS: Final = {
    (kind, rule.rule_id): _compile_conditions(kind, rule)
    for kind, rules in DEFAULT_RULES.items()
    for rule in rules
}
_NUMBERS: Final = {
    key: number
    for number, (key, conditions) in enumerate(_DEFAULTS.items())
    if not any(condition.personal for condition in conditions)
}


def compile_rules(rules: UserRules) -> CompiledRules:
    """A user's rules, for evaluating many events."""
    compiled: list[CompiledRule] = []
    for kind in Kind:
        for rule in rules.of_kind(kind):
            if not rule.enabled:
                continue
            key = (kind, rule.rule_id)
            actions = read_actions(rule.actions)
            if rule.default:
                compiled.append(CompiledRule(_DEFAULTS[key], actions, _NUMBERS.get(key)))
            else:
                compiled.append(CompiledRule(_compile_conditions(kind, rule), actions))
    return CompiledRules(compiled)


DEFAULT_COMPILED: Final = compile_rules(NO_RULES)
"""The rules of everybody who never changed anything."""


def evaluate(rules: CompiledRules, event: EventView, room: RoomFacts, reader: Reader) -> Actions:
    """What an event means for a user: the actions of the first rule it meets, NOTHING if there is none.

    Nobody is notified of what they sent themselves; that is the caller's to know.
    """
    reader.steps, actions = MAX_STEPS, NOTHING
    for rule in _left_over(rules, event):
        met = event.remembered.get(rule.number)
        if met is None:
            met = _met(rule, event, room, reader)
            if rule.number is not None:
                event.remembered[rule.number] = met
        if met:
            actions = rule.actions
            break
    reader.spent += MAX_STEPS - reader.steps
    return actions


def _left_over(rules: CompiledRules, event: EventView) -> Sequence[CompiledRule]:
    """The rules that could match the event without those that are known not to, whoever asks."""
    known = event.left_over
    if known is not None and known[0] is rules and known[1] == len(event.remembered):
        left: Sequence[CompiledRule] = known[2]
        return left
    remembered = event.remembered
    left = [
        rule
        for rule in rules.for_event(event)
        if remembered.get(rule.number) is not False and not (rule.number is None and _for_nobody(rule, event))
    ]
    event.left_over = (rules, len(remembered), left)
    return left


def _for_nobody(rule: CompiledRule, event: EventView) -> bool:
    for condition in rule.conditions:  # noqa: SIM110, as below
        if type(condition) is ContainsOwnId and condition.holds_for_nobody(event):
            return True
    return False


def _met(rule: CompiledRule, event: EventView, room: RoomFacts, reader: Reader) -> bool:
    for condition in rule.conditions:  # noqa: SIM110, a generator would cost more than the conditions
        if not condition.holds(event, room, reader):
            return False
    return True
