# SPDX-License-Identifier: Apache-2.0
"""Which events notify a user, and which show that they have read.

Owns what counts at all: not what the user sent, not what those they ignore sent, not what was redacted. Sending a
message is reading its thread up to there (client-server API, "Marking notifications as read"); a state event is not,
since a new display name writes one into every room.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from homeserver.events import RoomEvent
from homeserver.protocol.push_rules import CompiledRules, EventView, Reader, RoomFacts, evaluate
from homeserver.receipts.threads import direct_link
from homeserver.unread.threads import own_thread
from storage.unread import UnreadEvent

VIEW_BYTES = 2**22
"""Of the views that are kept: the members of a busy room ask of the same few events."""
GLANCES = 64
"""The same, for as long as a commit's listeners are told of it."""
TURN = 200_000
"""Steps that a user's rules may take in one turn of the reactor, some twenty milliseconds."""


class Item(NamedTuple):
    """An event to judge, from memory or from the database."""

    position: int
    event_id: str
    sender: str
    is_state: bool
    pdu: Mapping[str, Any]
    size: int
    """Bytes of its JSON."""

    @classmethod
    def of_memory(cls, entry: RoomEvent) -> Item:
        stored = entry.stored
        is_state, size = stored.state_key is not None, len(stored.pdu)
        return cls(stored.position, stored.event_id, stored.sender, is_state, entry.event.pdu, size)

    @classmethod
    def of_row(cls, row: UnreadEvent) -> Item:
        is_state, size = row.state_key is not None, len(row.pdu)
        return cls(row.position, row.event_id, row.sender, is_state, orjson.loads(row.pdu), size)


class Verdict(NamedTuple):
    """An event that changes what is unread: the user sent it, or it notifies them."""

    position: int
    event_id: str
    own: bool
    highlight: bool
    thread: str | None
    """None: the event's parent decides."""
    parent: str | None


class Glance(NamedTuple):
    """What is the same for all who judge an event."""

    view: EventView
    is_state: bool
    thread: str | None
    parent: str | None


class Views:
    """Views of the newest events, by event id: what is computed once for all members of a room.

    About `budget` bytes of them, counting each with its event taken apart: it holds that, though the room may not."""

    def __init__(self, budget: int = VIEW_BYTES) -> None:
        self._budget = budget
        self._views: OrderedDict[str, tuple[EventView, int]] = OrderedDict()
        self.weight = 0
        """About how many bytes they take."""
        self._glances: OrderedDict[RoomEvent, Glance] = OrderedDict()

    def glance(self, entry: RoomEvent) -> Glance:
        """Of an event in memory that is not redacted."""
        glance = self._glances.get(entry)
        if glance is None:
            item = Item.of_memory(entry)
            link = direct_link(item.event_id, item.pdu["content"])
            glance = Glance(self.of(item, entry.room_id), item.is_state, own_thread(link), link.parent)
            self._glances[entry] = glance
            if len(self._glances) > GLANCES:
                self._glances.popitem(last=False)
        return glance

    def of(self, item: Item, room_id: str) -> EventView:
        known = self._views.get(item.event_id)
        if known is not None:
            return known[0]
        view, weight = EventView(item.pdu, event_id=item.event_id, room_id=room_id), view_weight(item.size)
        self._views[item.event_id] = view, weight
        self.weight += weight
        while self.weight > self._budget and len(self._views) > 1:
            self.weight -= self._views.popitem(last=False)[1][1]
        return view


def view_weight(size: int) -> int:
    """About how many bytes the view of an event takes whose JSON has so many."""
    return 3000 + 2 * size


class Judge:
    """For one user and one room."""

    __slots__ = ("_facts", "_ignored", "_reader", "_room_id", "_rules")

    def __init__(
        self,
        rules: CompiledRules,
        reader: Reader,
        *,
        room_id: str,
        facts: RoomFacts,
        ignored: frozenset[str],
    ) -> None:
        self._rules = rules
        self._reader = reader
        self._room_id = room_id
        self._facts = facts
        self._ignored = ignored

    @property
    def spent(self) -> int:
        """Steps that the user's rules took in the last call of `judge`."""
        return self._reader.spent

    def judge(self, items: Iterator[Item], views: Views | None) -> list[Verdict]:
        """Verdicts in the order of the events, as far as a turn goes; what is left of `items` is for the next.

        `views` for those that others will ask of too.
        """
        self._reader.spent = 0
        verdicts: list[Verdict] = []
        for item in items:
            verdict = self._verdict(item, views)
            if verdict is not None:
                verdicts.append(verdict)
            if self._reader.spent >= TURN:
                break
        return verdicts

    def judge_simple(self, entries: Sequence[RoomEvent], views: Views) -> list[Verdict] | None:
        """Verdicts as `judge` gives them of a few events in memory; None if that takes more than a moment, or if
        more than these events must be looked at."""
        reader, rules, facts = self._reader, self._rules, self._facts
        reader.spent = 0
        verdicts: list[Verdict] = []
        for entry in entries:
            stored = entry.stored
            if stored.redacted_by is not None or stored.type == "m.room.redaction" or reader.spent >= TURN:
                return None
            own, highlight = stored.sender == reader.user_id, False
            glance = views.glance(entry)
            if own:
                if glance.is_state:
                    continue
            elif stored.sender in self._ignored:
                continue
            else:
                actions = evaluate(rules, glance.view, facts, reader)
                if not actions.notify:
                    continue
                highlight = actions.highlight
            if glance.thread is None:
                return None
            verdicts.append(
                Verdict(stored.position, stored.event_id, own, highlight, glance.thread, glance.parent)
            )
        return verdicts

    def _verdict(self, item: Item, views: Views | None) -> Verdict | None:
        own = item.sender == self._reader.user_id
        highlight = False
        if own:
            if item.is_state:
                return None
        elif item.sender in self._ignored:
            return None
        else:
            view = (
                EventView(item.pdu, event_id=item.event_id, room_id=self._room_id)
                if views is None
                else views.of(item, self._room_id)
            )
            actions = evaluate(self._rules, view, self._facts, self._reader)
            if not actions.notify:
                return None
            highlight = actions.highlight
        link = direct_link(item.event_id, item.pdu["content"])
        return Verdict(item.position, item.event_id, own, highlight, own_thread(link), link.parent)
