# SPDX-License-Identifier: Apache-2.0
"""The push rule: one of five kinds, with conditions and actions (client-server API, "Push Rules").

Owns the value, its JSON form, and what its actions come to. Which rules there are is `defaults`' and `user_rules`'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from msgspec import Struct

from homeserver.protocol.push_rules.conditions import OWN_USER_ID


class Kind(StrEnum):
    """In the order they are checked."""

    OVERRIDE = "override"
    CONTENT = "content"
    ROOM = "room"
    SENDER = "sender"
    UNDERRIDE = "underride"


KINDS: Final[Mapping[str, Kind]] = MappingProxyType({kind.value: kind for kind in Kind})
CONDITIONAL: Final = frozenset((Kind.OVERRIDE, Kind.UNDERRIDE))
"""Kinds whose rules have conditions."""

Action = str | Mapping[str, Any]

_HISTORICAL: Final = frozenset(("dont_notify", "coalesce"))


class Actions(NamedTuple):
    """What is to be done about an event for a user."""

    notify: bool
    highlight: bool
    tweaks: Mapping[str, object]


NOTHING: Final = Actions(notify=False, highlight=False, tweaks=MappingProxyType({}))


def without_historical(actions: Iterable[Action]) -> tuple[Action, ...]:
    """The actions without those that older specifications had, which are to be ignored."""
    return tuple(action for action in actions if not (isinstance(action, str) and action in _HISTORICAL))


def read_actions(actions: Iterable[Action]) -> Actions:
    """What a rule's list of actions comes to; those unknown are ignored."""
    notify = False
    tweaks: dict[str, object] = {}
    for action in actions:
        if action == "notify":
            notify = True
        elif isinstance(action, Mapping) and isinstance(action.get("set_tweak"), str):
            name = action["set_tweak"]
            tweaks[name] = action.get("value", True if name == "highlight" else None)
    if not notify and not tweaks:
        return NOTHING
    return Actions(notify, tweaks.get("highlight") is True, MappingProxyType(tweaks))


class PushRule(Struct, frozen=True):
    """One rule. `conditions` only with the kinds that are CONDITIONAL, `pattern` only with `content`."""

    rule_id: str
    actions: tuple[Action, ...]
    enabled: bool = True
    default: bool = False
    conditions: tuple[Mapping[str, Any], ...] | None = None
    pattern: str | None = None

    def as_json(self, user_id: str) -> dict[str, Any]:
        """The rule as clients see it; `user_id` stands in default rules where they mean the user."""
        rule: dict[str, Any] = {
            "rule_id": self.rule_id,
            "default": self.default,
            "enabled": self.enabled,
            "actions": list(self.actions),
        }
        if self.conditions is not None:
            rule["conditions"] = [_personal(condition, user_id) for condition in self.conditions]
        if self.pattern is not None:
            rule["pattern"] = self.pattern
        return rule

    @classmethod
    def from_json(cls, rule: Mapping[str, Any], kind: Kind) -> PushRule | None:
        """A rule as it was stored; None if it is none."""
        rule_id, actions = rule.get("rule_id"), rule.get("actions")
        conditions, pattern = rule.get("conditions"), rule.get("pattern")
        if not isinstance(rule_id, str) or not isinstance(actions, list):
            return None
        return cls(
            rule_id,
            without_historical(actions),
            rule.get("enabled") is not False,
            rule.get("default") is True,
            _conditions(conditions) if kind in CONDITIONAL else None,
            pattern if kind is Kind.CONTENT and isinstance(pattern, str) else None,
        )


def _conditions(conditions: Sequence[Any] | None) -> tuple[Mapping[str, Any], ...]:
    # What is no object is kept as a condition of no kind: it must stop the rule from matching, not vanish from it.
    return tuple(each if isinstance(each, dict) else {} for each in conditions or ())


def _personal(condition: Mapping[str, Any], user_id: str) -> dict[str, Any]:
    return {key: user_id if value is OWN_USER_ID else value for key, value in condition.items()}
