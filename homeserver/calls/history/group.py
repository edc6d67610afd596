# SPDX-License-Identifier: Apache-2.0
"""Calls of many, read off the memberships that devices set in a room's state, in the order in which they came. Pure.

A session begins when somebody is in a call that nobody was in, and ends when the last has left or lapsed (MSC3401,
MSC4143). What rang for it (MSC4075) and was refused (MSC4310) belongs to the session that was under way then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Struct, field

from homeserver.calls.history.calls import Call, CallEvent, Outcome
from homeserver.protocol.call_members import CALL_MEMBER_TYPES

NOTIFY_TYPES: Final = (
    "m.rtc.notification",
    "org.matrix.msc4075.rtc.notification",
    "m.call.notify",
    "org.matrix.msc4075.call.notify",
)
DECLINE_TYPES: Final = ("m.rtc.decline", "org.matrix.msc4310.rtc.decline")

USUAL_EXPIRY_MS: Final = 4 * 3_600_000
MOST_EXPIRY_MS: Final = 86_400_000
"""A membership that nobody renews is over a day after it was set, whatever it says."""
NEVER: Final = 1 << 62
MOST_NAMED: Final = 50
"""Participants named; all are counted."""


class _Session(Struct):
    """A call as far as it was followed."""

    anchor: CallEvent | None
    """The membership that began it; None: it began before."""
    call_id: str
    present: dict[str, int] = field(default_factory=dict)
    """State key → when its membership lapses."""
    people: dict[str, None] = field(default_factory=dict)
    own_since: int | None = None
    own_until: int | None = None
    notified: bool = False
    declined: bool = False
    ended: int | None = None
    settled: bool = False


class GroupCalls:
    """Follows the calls of one room for one user."""

    def __init__(self, user_id: str, now: int) -> None:
        self._user_id = user_id
        self._now = now
        self._time = 0
        self._soonest = NEVER
        self._open: dict[str, _Session] = {}
        self._of_key: dict[str, tuple[_Session, str]] = {}
        self._all: list[_Session] = []

    def begin_with(self, members: Iterable[CallEvent]) -> None:
        """The memberships that stood before the first event."""
        for event in members:
            call_id = _joined_call(event.content)
            if call_id is not None and event.state_key is not None:
                session = self._open.setdefault(call_id, _Session(None, call_id))
                self._set(session, event, event.state_key)

    def hear(self, event: CallEvent) -> None:
        """Take up the next event."""
        self._pass_to(min(event.ts, self._now))
        if event.type in CALL_MEMBER_TYPES and event.state_key is not None:
            call_id = _joined_call(event.content)
            if call_id is None:
                self._leave(event.state_key)
            else:
                self._join(event, event.state_key, call_id)
        elif event.type in NOTIFY_TYPES:
            if event.sender != self._user_id and self._is_meant(event.content):
                for session in self._open.values():
                    session.notified = True
        elif event.type in DECLINE_TYPES and event.sender == self._user_id:
            for session in self._open.values():
                session.declined = True

    def calls(self) -> list[Call]:
        """Those that began among the events heard."""
        self._pass_to(self._now)
        return [self._told(session, session.anchor) for session in self._all if session.anchor is not None]

    def _pass_to(self, time: int) -> None:
        """Let memberships lapse. Time goes on by the events' clocks, never back and never beyond now."""
        self._time = max(self._time, time)
        if self._time < self._soonest:
            return
        self._soonest = NEVER
        for call_id, session in list(self._open.items()):
            lapsed = [key for key, until in session.present.items() if until <= self._time]
            for key in lapsed:
                self._away(session, key, session.present.pop(key))
            if session.present:
                self._soonest = min(self._soonest, *session.present.values())
            else:
                del self._open[call_id]

    def _set(self, session: _Session, event: CallEvent, key: str) -> None:
        lapses = session.present[key] = _lapses(event)
        self._of_key[key] = (session, event.sender)
        self._soonest = min(self._soonest, lapses)

    def _join(self, event: CallEvent, key: str, call_id: str) -> None:
        known = self._of_key.get(key)
        if known is not None and known[0].call_id != call_id:
            self._leave(key)
        session = self._open.get(call_id)
        if session is None:
            session = self._open[call_id] = _Session(event, call_id)
            self._all.append(session)
        self._set(session, event, key)
        session.people[event.sender] = None
        if event.sender == self._user_id:
            session.own_since = event.ts if session.own_since is None else session.own_since
            session.own_until = None

    def _leave(self, key: str) -> None:
        known = self._of_key.get(key)
        if known is None or key not in known[0].present:
            return
        session = known[0]
        del session.present[key]
        self._away(session, key, self._time)
        if not session.present:
            session.settled = True
            del self._open[session.call_id]

    def _away(self, session: _Session, key: str, when: int) -> None:
        session.ended = when if session.ended is None else max(session.ended, when)
        if self._of_key[key][1] != self._user_id:
            return
        if not any(self._of_key[other][1] == self._user_id for other in session.present):
            session.own_until = when

    def _is_meant(self, content: Mapping[str, Any]) -> bool:
        mentions = content.get("m.mentions")
        if not isinstance(mentions, dict):
            return False
        users = mentions.get("user_ids")
        return mentions.get("room") is True or (isinstance(users, list) and self._user_id in users)

    def _told(self, session: _Session, anchor: CallEvent) -> Call:
        going = bool(session.present)
        ended = None if going else session.ended
        duration = None
        if session.own_since is not None and session.own_until is not None:
            duration = max(0, session.own_until - session.own_since)
        return Call(
            room=anchor.room,
            position=anchor.position,
            event_id=anchor.event_id,
            call_id=session.call_id,
            kind="group",
            outgoing=anchor.sender == self._user_id,
            started_ts=anchor.ts,
            state="ongoing" if going else "ended",
            outcome=self._outcome(session, going),
            settled=session.settled,
            answered_ts=session.own_since,
            ended_ts=ended,
            duration_ms=duration,
            participants=tuple(session.people)[:MOST_NAMED],
            participant_count=len(session.people),
            notified=session.notified,
            intent=_intent(anchor.content),
        )

    def _outcome(self, session: _Session, going: bool) -> Outcome | None:
        if session.own_since is not None and (going or len(session.people) > 1):
            return "answered"
        if session.declined:
            return "declined"
        return None if going else "missed"


def _joined_call(content: Mapping[str, Any]) -> str | None:
    """The id of the call that a membership is in; None: in none. Older clients keep a list of their devices'."""
    for key in ("memberships", "m.calls"):
        entries = content.get(key)
        if isinstance(entries, list):
            content = next((each for each in entries if isinstance(each, dict)), {})
            break
    else:
        if "application" not in content:
            return None
    if not content:
        return None
    call_id = content.get("call_id", content.get("m.call_id", ""))
    return call_id if isinstance(call_id, str) and len(call_id) <= 255 else ""


def _lapses(event: CallEvent) -> int:
    """When a membership is over that nobody renews: so long after the device first set it."""
    created = event.content.get("created_ts")
    begun = created if type(created) is int and 0 < created <= event.ts else event.ts
    # Renewals keep the time of creation and name a longer time.
    expires = event.number("expires", USUAL_EXPIRY_MS, 1 << 50)
    return min(begun + expires, event.ts + MOST_EXPIRY_MS)


def _intent(content: Mapping[str, Any]) -> str | None:
    intent = content.get("m.call.intent")
    return intent if intent in ("audio", "video") else None
