# SPDX-License-Identifier: Apache-2.0
"""Push rules as pure functions (client-server API, "Push Notifications").

`defaults` lists what everybody has, `user_rules` is what one user has and how it is edited, `evaluation` asks the rules
of an event by way of `conditions`, `event_view` and `globs`. Owns no storage and no counting.
"""

from homeserver.protocol.push_rules.conditions import Reader, RoomFacts
from homeserver.protocol.push_rules.evaluation import DEFAULT_COMPILED, CompiledRules, compile_rules, evaluate
from homeserver.protocol.push_rules.event_view import EventView
from homeserver.protocol.push_rules.rules import CONDITIONAL, KINDS, Action, Actions, Kind, PushRule
from homeserver.protocol.push_rules.user_rules import (
    NO_RULES,
    PUSH_RULES,
    RulePlacementError,
    TooManyRulesError,
    UnknownRuleError,
    UserRules,
)

__all__ = [
    "CONDITIONAL",
    "DEFAULT_COMPILED",
    "KINDS",
    "NO_RULES",
    "PUSH_RULES",
    "Action",
    "Actions",
    "CompiledRules",
    "EventView",
    "Kind",
    "PushRule",
    "Reader",
    "RoomFacts",
    "RulePlacementError",
    "TooManyRulesError",
    "UnknownRuleError",
    "UserRules",
    "compile_rules",
    "evaluate",
]
