# SPDX-License-Identifier: Apache-2.0
"""Account data as a sync shows it: with push rules for everybody.

Owns that `m.push_rules` is told to who never changed a rule, of whom nothing is stored, and that whoever did sees the
defaults as they are now, not as they were then. Everything else passes through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from homeserver.needs import Protocol
from homeserver.protocol.push_rules import PUSH_RULES


class Changes(Protocol):
    """Entries `{"type": …, "content": …}` that moved; the list may be changed, its entries are shared."""

    global_: list[dict[str, Any]]

    @property
    def rooms(self) -> Mapping[int, Sequence[Mapping[str, Any]]]: ...


C = TypeVar("C", bound=Changes)
C_co = TypeVar("C_co", bound=Changes, covariant=True)


class AccountData(Protocol[C_co]):
    def changed(self, user_id: str, since: int, upto: int) -> Awaitable[C_co]: ...

    def ignored(self, user_id: str) -> Awaitable[frozenset[str]]: ...

    def ignored_at_once(self, user_id: str) -> frozenset[str] | None: ...


class Rules(Protocol):
    def content(self, user_id: str) -> Awaitable[dict[str, Any]]: ...


class AccountDataWithRules(Generic[C]):
    """One per process."""

    def __init__(self, account_data: AccountData[C], rules: Rules) -> None:
        self._account_data = account_data
        self._rules = rules

    async def changed(self, user_id: str, since: int, upto: int) -> C:
        """What moved in since < position ≤ upto; everything there is for `since` 0, push rules always among it."""
        changes = await self._account_data.changed(user_id, since, upto)
        others = [entry for entry in changes.global_ if entry["type"] != PUSH_RULES]
        if since == 0 or len(others) < len(changes.global_):
            rules = {"type": PUSH_RULES, "content": await self._rules.content(user_id)}
            changes.global_ = [*others, rules]
        return changes

    async def ignored(self, user_id: str) -> frozenset[str]:
        """The users whom a user ignores."""
        return await self._account_data.ignored(user_id)

    def ignored_at_once(self, user_id: str) -> frozenset[str] | None:
        """The same; None if memory does not tell."""
        return self._account_data.ignored_at_once(user_id)
