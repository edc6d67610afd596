# SPDX-License-Identifier: Apache-2.0
"""Push rules of users (client-server API, "Push Rules: API", "Push Rules: Events").

Owns what may be put into them and that simultaneous changes are all made. They are kept as the account data
`m.push_rules`, with the defaults as they then were, so that it reaches devices like any other; a user who never
changed anything has no entry. What rules mean is `homeserver.protocol.push_rules`'.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from twisted.internet.defer import DeferredLock

from homeserver.errors import InvalidParam, NotFound, TooLarge, Unknown
from homeserver.needs import Protocol
from homeserver.protocol.push_rules import (
    DEFAULT_COMPILED,
    KINDS,
    NO_RULES,
    PUSH_RULES,
    Action,
    CompiledRules,
    Kind,
    PushRule,
    RulePlacementError,
    TooManyRulesError,
    UnknownRuleError,
    UserRules,
    compile_rules,
)

GLOBAL = 0
BUDGET = 32_000_000
"""Bytes of compiled rules that are kept in memory, unless told otherwise."""
MAX_RULE_ID_BYTES = 255
MAX_PATTERN_CHARACTERS = 1024


class AccountData(Protocol):
    """Where rules are kept; room 0 is the global account data."""

    async def get(self, user_id: str, event_type: str, room: int = GLOBAL) -> dict[str, Any] | None: ...

    def get_at_once(self, user_id: str, event_type: str) -> tuple[dict[str, Any] | None] | None: ...

    async def update_managed(
        self,
        user_id: str,
        room: int,
        event_type: str,
        change: Callable[[Mapping[str, Any] | None], Mapping[str, Any] | None],
    ) -> None: ...


class _Read(NamedTuple):
    """An account data content as it was read; the same object as long as nothing changed."""

    content: Mapping[str, Any]
    rules: UserRules
    compiled: CompiledRules

    @property
    def weight(self) -> int:
        """About how many bytes of memory it takes; those with the default rules share theirs."""
        return 1000 if self.rules is NO_RULES else 6000 + 1000 * sum(map(len, self.rules.own.values()))


class PushRules:
    """One per process."""

    def __init__(self, account_data: AccountData, *, budget: int = BUDGET) -> None:
        self._account_data = account_data
        self._budget = budget
        self._weight = 0
        self._read: OrderedDict[str, _Read] = OrderedDict()
        self._locks: dict[str, DeferredLock] = {}

    @property
    def weight(self) -> int:
        """About how many bytes the compiled rules take that are kept."""
        return self._weight

    # Reading.

    async def compiled(self, user_id: str) -> CompiledRules:
        """The user's rules, for evaluating events."""
        content = await self._account_data.get(user_id, PUSH_RULES)
        return DEFAULT_COMPILED if content is None else self._known(user_id, content).compiled

    def compiled_at_once(self, user_id: str) -> CompiledRules | None:
        """The same; None if the user's account data is not in memory."""
        found = self._account_data.get_at_once(user_id, PUSH_RULES)
        if found is None:
            return None
        content = found[0]
        return DEFAULT_COMPILED if content is None else self._known(user_id, content).compiled

    async def rules(self, user_id: str) -> UserRules:
        """The user's rules."""
        content = await self._account_data.get(user_id, PUSH_RULES)
        return NO_RULES if content is None else self._known(user_id, content).rules

    async def content(self, user_id: str) -> dict[str, Any]:
        """The content of `m.push_rules`: also of a user who never changed anything, and never with old defaults."""
        return (await self.rules(user_id)).content(user_id)

    async def rule(self, user_id: str, kind: str, rule_id: str) -> PushRule:
        """One rule. Raises NotFound, InvalidParam for a kind there is none of."""
        rules = await self.rules(user_id)
        try:
            return rules.find(_kind(kind), rule_id)
        except UnknownRuleError:
            raise _not_found() from None

    def _known(self, user_id: str, content: Mapping[str, Any]) -> _Read:
        read = self._read.get(user_id)
        if read is not None and (read.content is content or read.content == content):
            self._read.move_to_end(user_id)
            return read
        rules = UserRules.from_content(content)
        compiled = DEFAULT_COMPILED if rules is NO_RULES else compile_rules(rules)
        if read is not None:
            self._weight -= read.weight
        read = self._read[user_id] = _Read(content, rules, compiled)
        self._read.move_to_end(user_id)
        self._weight += read.weight
        while self._weight > self._budget and len(self._read) > 1:
            _, oldest = self._read.popitem(last=False)
            self._weight -= oldest.weight
        return read

    # Editing.

    async def put(
        self, user_id: str, kind: str, rule: PushRule, *, before: str | None = None, after: str | None = None
    ) -> None:
        """Add a rule of the user's own, or change it.

        Raises InvalidParam for a kind there is none of and for an id that nobody may give a rule, Unknown for a
        neighbour there is none of, TooLarge.
        """
        known = _kind(kind)
        _check_rule_id(rule.rule_id)
        _check_patterns(rule)
        await self._change(user_id, lambda rules: rules.put(known, rule, before=before, after=after))

    async def remove(self, user_id: str, kind: str, rule_id: str) -> None:
        """Remove one of the user's own rules. Raises NotFound, also for default rules; InvalidParam for the kind."""
        known = _kind(kind)
        removed = False

        def without(rules: UserRules) -> UserRules:
            nonlocal removed
            try:
                rules = rules.remove(known, rule_id)
            except UnknownRuleError:
                if not removed:
                    raise
            removed = True  # a second look after a lost answer finds it gone, as it should be
            return rules

        await self._change(user_id, without)

    async def switch(self, user_id: str, kind: str, rule_id: str, *, enabled: bool) -> None:
        """Enable or disable a rule. Raises NotFound, InvalidParam for the kind."""
        known = _kind(kind)
        await self._change(user_id, lambda rules: rules.switch(known, rule_id, enabled=enabled))

    async def act(self, user_id: str, kind: str, rule_id: str, actions: tuple[Action, ...]) -> None:
        """Give a rule other actions. Raises NotFound, InvalidParam for the kind."""
        known = _kind(kind)
        await self._change(user_id, lambda rules: rules.act(known, rule_id, actions))

    async def follow(self, user_id: str, old_room_id: str, new_room_id: str) -> None:
        """Have rules about a room be about the one that replaced it, too. Doing it again changes nothing."""
        if await self._account_data.get(user_id, PUSH_RULES) is not None:
            await self._change(user_id, lambda rules: rules.following(old_room_id, new_room_id))

    async def _change(self, user_id: str, edit: Callable[[UserRules], UserRules]) -> None:
        def change(content: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
            before = NO_RULES if content is None else UserRules.from_content(content)
            changed = edit(before).content(user_id)
            return content if changed == before.content(user_id) else changed

        # Clients send a dozen changes at once. Between processes a compare-and-swap orders them; within one they
        # wait for each other rather than all try again.
        lock = self._locks.setdefault(user_id, DeferredLock())
        await lock.acquire()
        try:
            await self._account_data.update_managed(user_id, GLOBAL, PUSH_RULES, change)
        except UnknownRuleError:
            raise _not_found() from None
        except RulePlacementError as error:
            raise Unknown(str(error)) from error
        except TooManyRulesError as error:
            raise TooLarge(str(error)) from error
        finally:
            if not lock.waiting:
                del self._locks[user_id]
            lock.release()


def _not_found() -> NotFound:
    return NotFound("The push rule was not found")


def _kind(name: str) -> Kind:
    kind = KINDS.get(name)
    if kind is None:
        raise InvalidParam(f"There is no kind of push rules {name!r}")
    return kind


def _check_rule_id(rule_id: str) -> None:
    if rule_id.startswith("."):
        raise InvalidParam("Rule ids that begin with '.' are the server's")
    if "/" in rule_id or "\\" in rule_id:
        raise InvalidParam("Rule ids may not contain slashes or backslashes")
    if not rule_id or len(rule_id.encode()) > MAX_RULE_ID_BYTES:
        raise InvalidParam(f"Rule ids have 1 to {MAX_RULE_ID_BYTES} bytes")


def _check_patterns(rule: PushRule) -> None:
    patterns = [rule.pattern, *(condition.get("pattern") for condition in rule.conditions or ())]
    if any(isinstance(pattern, str) and len(pattern) > MAX_PATTERN_CHARACTERS for pattern in patterns):
        raise InvalidParam(f"Patterns have at most {MAX_PATTERN_CHARACTERS} characters")
