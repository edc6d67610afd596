# SPDX-License-Identifier: Apache-2.0
"""`/pushrules` (client-server API, "Push Rules: API"). Owns the form of requests; rules are `homeserver.push_rules`'.

The only scope is `global`, which the paths of old specifications left open.
"""

from typing import Any

from homeserver.clientapi.path_user import own_user_id
from homeserver.errors import BadJson, InvalidParam, MissingParam
from homeserver.protocol.push_rules import CONDITIONAL, KINDS, Action, Kind, PushRule
from homeserver.push_rules import PushRules
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Route

_RULE = "/pushrules/{scope}/{kind}/{rule_id}"


class RuleBody(Struct, frozen=True):
    """`PUT …/{ruleId}`: further keys depend on the kind."""

    actions: list[Any]
    conditions: list[dict[str, Any]] | None = None
    pattern: str | None = None


class EnabledBody(Struct, frozen=True):
    """`PUT …/enabled`."""

    enabled: bool


class ActionsBody(Struct, frozen=True):
    """`PUT …/actions`."""

    actions: list[Any]


class PushRuleEndpoints:
    """The routes."""

    def __init__(self, push_rules: PushRules) -> None:
        self._push_rules = push_rules

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", "/pushrules", self.get_all, trailing_slash=True),
            Route("GET", "/pushrules/{scope}", self.get_scope, trailing_slash=True),
            Route("GET", _RULE, self.get_rule),
            Route("PUT", _RULE, self.put_rule),
            Route("DELETE", _RULE, self.delete_rule),
            Route("GET", f"{_RULE}/enabled", self.get_enabled),
            Route("PUT", f"{_RULE}/enabled", self.put_enabled),
            Route("GET", f"{_RULE}/actions", self.get_actions),
            Route("PUT", f"{_RULE}/actions", self.put_actions),
            Route("GET", "/user/{user_id}/account_data/m.push_rules", self.get_account_data),
        )

    async def get_all(self, request: MatrixRequest) -> Reply:
        """`GET /pushrules/`."""
        return await self._push_rules.content(request.requester.user_id)

    async def get_scope(self, request: MatrixRequest) -> Reply:
        """`GET /pushrules/global/`."""
        _check_scope(request)
        content = await self._push_rules.content(request.requester.user_id)
        ruleset: dict[str, Any] = content["global"]
        return ruleset

    async def get_rule(self, request: MatrixRequest) -> Reply:
        """`GET /pushrules/global/{kind}/{ruleId}`."""
        rule = await self._rule(request)
        return rule.as_json(request.requester.user_id)

    async def put_rule(self, request: MatrixRequest) -> Reply:
        """`PUT /pushrules/global/{kind}/{ruleId}`."""
        user_id, kind, rule_id = _named(request)
        rule = _rule_of(kind, rule_id, request.body(RuleBody))
        before, after = request.query.string("before"), request.query.string("after")
        await self._push_rules.put(user_id, kind, rule, before=before, after=after)
        return {}

    async def delete_rule(self, request: MatrixRequest) -> Reply:
        """`DELETE /pushrules/global/{kind}/{ruleId}`."""
        await self._push_rules.remove(*_named(request))
        return {}

    async def get_enabled(self, request: MatrixRequest) -> Reply:
        """`GET /pushrules/global/{kind}/{ruleId}/enabled`."""
        rule = await self._rule(request)
        return {"enabled": rule.enabled}

    async def put_enabled(self, request: MatrixRequest) -> Reply:
        """`PUT /pushrules/global/{kind}/{ruleId}/enabled`."""
        await self._push_rules.switch(*_named(request), enabled=request.body(EnabledBody).enabled)
        return {}

    async def get_actions(self, request: MatrixRequest) -> Reply:
        """`GET /pushrules/global/{kind}/{ruleId}/actions`."""
        rule = await self._rule(request)
        return {"actions": list(rule.actions)}

    async def put_actions(self, request: MatrixRequest) -> Reply:
        """`PUT /pushrules/global/{kind}/{ruleId}/actions`."""
        actions = _checked_actions(request.body(ActionsBody).actions)
        await self._push_rules.act(*_named(request), actions)
        return {}

    async def get_account_data(self, request: MatrixRequest) -> Reply:
        """`GET /user/{userId}/account_data/m.push_rules`: there is nothing stored of who never changed a rule."""
        return await self._push_rules.content(own_user_id(request))

    async def _rule(self, request: MatrixRequest) -> PushRule:
        return await self._push_rules.rule(*_named(request))


def _check_scope(request: MatrixRequest) -> None:
    if request.param("scope") != "global":
        raise InvalidParam("The only scope of push rules is global")


def _named(request: MatrixRequest) -> tuple[str, str, str]:
    """User, kind and id of the rule a path names."""
    _check_scope(request)
    return request.requester.user_id, request.param("kind"), request.param("rule_id")


def _rule_of(kind_name: str, rule_id: str, body: RuleBody) -> PushRule:
    """The rule of a body, with what its kind has of the optional keys. An unknown kind is refused further on."""
    kind = KINDS.get(kind_name)
    actions = _checked_actions(body.actions)
    if kind is Kind.CONTENT:
        if body.pattern is None:
            raise MissingParam("A content rule must have a pattern")
        return PushRule(rule_id, actions, pattern=body.pattern)
    if kind not in CONDITIONAL:
        return PushRule(rule_id, actions)
    conditions = tuple(body.conditions or ())
    if not all(isinstance(condition.get("kind"), str) for condition in conditions):
        raise BadJson("Every condition must have a kind")
    return PushRule(rule_id, actions, conditions=conditions)


def _checked_actions(actions: list[Any]) -> tuple[Action, ...]:
    """The actions without those of the past. Raises BadJson for what is no action: it would do nothing, silently."""
    for action in actions:
        known = action in {"notify", "dont_notify", "coalesce"} if isinstance(action, str) else False
        if not known and not (isinstance(action, dict) and isinstance(action.get("set_tweak"), str)):
            raise BadJson('Every action must be "notify" or an object with set_tweak')
    return tuple(action for action in actions if action not in ("dont_notify", "coalesce"))
