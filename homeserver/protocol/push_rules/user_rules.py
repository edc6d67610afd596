# SPDX-License-Identifier: Apache-2.0
"""A user's push rules: their own beside the defaults, and what they changed of the defaults.

Owns order and editing as values, and the content of `m.push_rules`. Does not own where it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import replace

from homeserver.protocol.errors import ProtocolError
from homeserver.protocol.push_rules.defaults import DEFAULT_RULES, MASTER
from homeserver.protocol.push_rules.rules import Action, Kind, PushRule, without_historical

PUSH_RULES: Final = "m.push_rules"
"""Type of the account data that tells clients of them."""

MAX_OWN_RULES: Final = 2000

_DEFAULTS: Final = {(kind, rule.rule_id): rule for kind, rules in DEFAULT_RULES.items() for rule in rules}


class UnknownRuleError(ProtocolError):
    """There is no such rule of that kind."""

    errcode = "M_NOT_FOUND"


class RulePlacementError(ProtocolError):
    """A rule cannot be put there: what it should stand before or after is no rule of the user's own."""


class TooManyRulesError(ProtocolError):
    """The user has MAX_OWN_RULES of their own."""

    errcode = "M_TOO_LARGE"


@dataclass(frozen=True, slots=True, eq=False)
class UserRules:
    """All rules of one user. A value: editing gives another."""

    own: Mapping[Kind, tuple[PushRule, ...]]
    """The user's own rules of each kind, the more important first."""
    changed: Mapping[tuple[Kind, str], PushRule]
    """Default rules that the user switched or gave other actions, in their changed form."""

    # Reading.

    def of_kind(self, kind: Kind) -> tuple[PushRule, ...]:
        """The rules of a kind, the more important first."""
        defaults = [self.changed.get((kind, rule.rule_id), rule) for rule in DEFAULT_RULES[kind]]
        own = self.own.get(kind, ())
        if defaults and defaults[0].rule_id == MASTER:
            return (defaults[0], *own, *defaults[1:])
        return (*own, *defaults)

    def find(self, kind: Kind, rule_id: str) -> PushRule:
        """One rule. Raises UnknownRuleError."""
        for rule in self.of_kind(kind):
            if rule.rule_id == rule_id:
                return rule
        raise UnknownRuleError(f"There is no {kind.value} rule {rule_id}")

    def content(self, user_id: str) -> dict[str, Any]:
        """The content of `m.push_rules`, defaults included."""
        return {
            "global": {kind.value: [rule.as_json(user_id) for rule in self.of_kind(kind)] for kind in Kind}
        }

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> UserRules:
        """Of what `content` gave, now or under other defaults: of default rules only what differs is taken over."""
        own: dict[Kind, tuple[PushRule, ...]] = {}
        changed: dict[tuple[Kind, str], PushRule] = {}
        ruleset = content.get("global")
        for kind in Kind:
            rules = ruleset.get(kind.value) if isinstance(ruleset, Mapping) else None
            own_of_kind: list[PushRule] = []
            for rule in _read(rules, kind):
                if not rule.default:
                    own_of_kind.append(rule)
                    continue
                default = _DEFAULTS.get((kind, rule.rule_id))
                if default is not None and (rule.enabled, rule.actions) != (default.enabled, default.actions):
                    changed[kind, rule.rule_id] = replace(default, enabled=rule.enabled, actions=rule.actions)
            if own_of_kind:
                own[kind] = tuple(own_of_kind)
        return cls(own, changed) if own or changed else NO_RULES

    # Editing.

    def put(
        self, kind: Kind, rule: PushRule, *, before: str | None = None, after: str | None = None
    ) -> UserRules:
        """With a rule added, or changed if there is one of its id: then it stays switched on or off as it is, and
        keeps its place unless told otherwise.

        `before` and `after` name own rules it shall be next to; `before` wins. Without, a new rule goes first. Raises
        RulePlacementError, TooManyRulesError.
        """
        rules = list(self.own.get(kind, ()))
        present = next((at for at, each in enumerate(rules) if each.rule_id == rule.rule_id), None)
        place = 0
        if present is not None:
            rule = replace(rule, enabled=rules.pop(present).enabled)
            place = present
        elif sum(map(len, self.own.values())) >= MAX_OWN_RULES:
            raise TooManyRulesError(f"You cannot have more than {MAX_OWN_RULES} push rules of your own")
        neighbour = after if before is None else before
        if neighbour is not None:
            found = next((at for at, each in enumerate(rules) if each.rule_id == neighbour), None)
            if found is None:
                raise RulePlacementError(f"before/after rule not found: {neighbour}")
            place = found if before is not None else found + 1
        rules.insert(place, rule)
        return self._with_own(kind, rules)

    def remove(self, kind: Kind, rule_id: str) -> UserRules:
        """Without one of the user's own rules. Raises UnknownRuleError, also for a default rule: it stays."""
        rules = self.own.get(kind, ())
        left = [rule for rule in rules if rule.rule_id != rule_id]
        if len(left) == len(rules):
            raise UnknownRuleError(f"There is no {kind.value} rule {rule_id} that could be removed")
        return self._with_own(kind, left)

    def switch(self, kind: Kind, rule_id: str, *, enabled: bool) -> UserRules:
        """With a rule, maybe a default one, enabled or not. Raises UnknownRuleError."""
        return self._with(kind, rule_id, lambda rule: replace(rule, enabled=enabled))

    def act(self, kind: Kind, rule_id: str, actions: Iterable[Action]) -> UserRules:
        """With other actions for a rule, maybe a default one. Raises UnknownRuleError."""
        kept = without_historical(actions)
        return self._with(kind, rule_id, lambda rule: replace(rule, actions=kept))

    def _with(self, kind: Kind, rule_id: str, change: Callable[[PushRule], PushRule]) -> UserRules:
        rule = change(self.find(kind, rule_id))
        if rule.default:
            changed = dict(self.changed)
            changed[kind, rule_id] = rule
            if rule == _DEFAULTS[kind, rule_id]:
                del changed[kind, rule_id]
            return UserRules(self.own, changed)
        rules = [rule if each.rule_id == rule_id else each for each in self.own[kind]]
        return self._with_own(kind, rules)

    def following(self, old_room_id: str, new_room_id: str) -> UserRules:
        """With a copy, for the room that replaced another, of each own rule about that one alone.

        Those are rules of kind `room`, and such with a condition that names the room, by which clients silence it. A
        rule that there is for the new room stands. Raises TooManyRulesError.
        """
        rules = self
        for kind, own in self.own.items():
            named = {rule.rule_id for rule in own}
            for rule in own:
                copy = _about(kind, rule, old_room_id, new_room_id)
                if copy is not None and copy.rule_id not in named:
                    named.add(copy.rule_id)
                    rules = rules.put(kind, copy, after=rule.rule_id)
        return rules

    def _with_own(self, kind: Kind, rules: Iterable[PushRule]) -> UserRules:
        return UserRules({**self.own, kind: tuple(rules)}, self.changed)


NO_RULES: Final = UserRules({}, {})
"""Of a user who never changed anything."""


def _read(rules: object, kind: Kind) -> Iterable[PushRule]:
    for each in rules if isinstance(rules, list) else ():
        rule = PushRule.from_json(each, kind) if isinstance(each, Mapping) else None
        if rule is not None:
            yield rule


def _about(kind: Kind, rule: PushRule, old_room_id: str, new_room_id: str) -> PushRule | None:
    """The same rule about another room; None if it is not about that one."""
    if kind is Kind.ROOM:
        return replace(rule, rule_id=new_room_id) if rule.rule_id == old_room_id else None
    conditions = tuple(
        {**condition, "pattern": new_room_id} if _names(condition, old_room_id) else condition
        for condition in rule.conditions or ()
    )
    if conditions == (rule.conditions or ()):
        return None
    return replace(rule, rule_id=new_room_id, conditions=conditions)


def _names(condition: Mapping[str, Any], room_id: str) -> bool:
    wanted = {"kind": "event_match", "key": "room_id", "pattern": room_id}
    return all(condition.get(name) == value for name, value in wanted.items())
