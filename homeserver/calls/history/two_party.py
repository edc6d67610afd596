# SPDX-License-Identifier: Apache-2.0
"""Calls by invite and answer, read off their events in the order in which they came. Pure.

Client-server API, "Voice over IP", versions 0 and 1. Whoever in the room may claim anything, so only the caller ends a
call that nobody answered, and only the two parties one that was.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec import Struct, field

from homeserver.calls.history.calls import Call, CallEvent, Outcome, State
from homeserver.protocol.identifiers import is_valid_user_id

INVITE: Final = "m.call.invite"
ANSWER: Final = "m.call.answer"
SELECT: Final = "m.call.select_answer"
REJECT: Final = "m.call.reject"
HANGUP: Final = "m.call.hangup"
TYPES: Final = (INVITE, ANSWER, SELECT, REJECT, HANGUP)

USUAL_LIFETIME_MS: Final = 60_000
MOST_LIFETIME_MS: Final = 600_000
LONGEST_MS: Final = 86_400_000
"""A call of which nothing was heard for so long has ended somehow."""
_REASONS: Final = frozenset(
    (
        "ice_failed",
        "ice_timeout",
        "invite_timeout",
        "user_hangup",
        "user_media_failed",
        "user_busy",
        "unknown_error",
    )
)
_FAILURES: Final = frozenset(("ice_failed", "user_media_failed", "unknown_error"))
"""Of these there never was a conversation; `ice_timeout` ends one."""


class _Call(Struct):
    """What was heard of a call so far."""

    invite: CallEvent
    call_id: str
    answers: list[CallEvent] = field(default_factory=list)
    chosen: CallEvent | None = None
    end: CallEvent | None = None
    """The event that ended it: a rejection or a hang-up."""

    @property
    def caller(self) -> str:
        return self.invite.sender

    @property
    def answer(self) -> CallEvent | None:
        """The answer that counts: the caller's choice, or else the first."""
        return self.chosen or (self.answers[0] if self.answers else None)

    @property
    def lapses(self) -> int:
        """When it stops ringing."""
        return self.invite.ts + self.invite.number("lifetime", USUAL_LIFETIME_MS, MOST_LIFETIME_MS)

    def hear(self, event: CallEvent, user_id: str) -> None:
        """Take up another event of it, as that user sees it."""
        if self.end is not None:
            return
        by_caller = event.sender == self.caller
        if event.type == ANSWER and not by_caller:
            self.answers.append(event)
        elif event.type == SELECT and by_caller and self.chosen is None:
            wanted = event.text("selected_party_id")
            self.chosen = next((each for each in self.answers if each.text("party_id") == wanted), None)
        elif event.type in (REJECT, HANGUP) and self._is_ended_by(event, user_id):
            self.end = event

    def _is_ended_by(self, event: CallEvent, user_id: str) -> bool:
        answer = self.answer
        if event.sender == self.caller:
            return event.type == HANGUP
        if answer is not None:  # a device that lost the race may reject, but ends nothing
            return event.type == HANGUP and event.sender == answer.sender
        # In a room of several, another's refusal leaves the call to the user.
        return user_id in (event.sender, self.caller)


def two_party_calls(events: Iterable[CallEvent], user_id: str, now: int) -> list[Call]:
    """The calls of one room that concern the user, of those whose invite is among the events."""
    calls: list[_Call] = []
    by_id: dict[str, _Call] = {}
    for event in events:
        call_id = event.text("call_id")
        if call_id is None or event.type not in TYPES:
            continue
        call = by_id.get(call_id)
        if event.type != INVITE:
            if call is not None:
                call.hear(event, user_id)
        elif _concerns(event, user_id) and (call is None or call.end is not None):
            by_id[call_id] = _Call(event, call_id)
            calls.append(by_id[call_id])
    return [_told(call, user_id, now) for call in calls if not _gave_way(call, calls)]


def _concerns(invite: CallEvent, user_id: str) -> bool:
    invitee = invite.text("invitee")
    return invitee is None or user_id in (invite.sender, invitee)


def _gave_way(call: _Call, calls: Iterable[_Call]) -> bool:
    """Whether it was given up for the other party's call at the same moment ("Glare"): the lesser call id wins."""
    if call.answers:
        return False
    until = call.lapses if call.end is None else call.end.ts
    for other in calls:
        if other.caller == call.caller or other.call_id >= call.call_id:
            continue
        answer = other.answer
        other_until = other.lapses if answer is None else answer.ts
        if other.invite.ts <= until and call.invite.ts <= other_until:
            return True
    return False


def _told(call: _Call, user_id: str, now: int) -> Call:
    answer, end = call.answer, call.end
    outgoing = call.caller == user_id
    reason = None if end is None else end.text("reason")
    if reason not in _REASONS:
        reason = None
    state, outcome, ended = _became(call, user_id, reason, now)
    duration = None
    if outcome == "answered" and answer is not None and ended is not None:
        duration = max(0, ended - answer.ts)
    return Call(
        room=call.invite.room,
        position=call.invite.position,
        event_id=call.invite.event_id,
        call_id=call.call_id,
        kind="video" if _has_video(call.invite) else "audio",
        outgoing=outgoing,
        started_ts=call.invite.ts,
        state=state,
        outcome=outcome,
        settled=end is not None,
        reason=reason,
        peer=_other_party(call) if outgoing else call.caller,
        answered_ts=None if answer is None else answer.ts,
        ended_ts=ended,
        duration_ms=duration,
    )


def _became(
    call: _Call, user_id: str, reason: str | None, now: int
) -> tuple[State, Outcome | None, int | None]:
    """State, outcome, and when it ended."""
    answer, end = call.answer, call.end
    if answer is not None:
        outcome: Outcome = "answered" if user_id in (call.caller, answer.sender) else "answered_elsewhere"
        if end is None:
            return "ongoing" if now < answer.ts + LONGEST_MS else "ended", outcome, None
        return "ended", "failed" if reason in _FAILURES else outcome, end.ts
    if end is not None:
        if reason in _FAILURES:
            return "ended", "failed", end.ts
        return "ended", "missed" if end.sender == call.caller else "declined", end.ts
    # A clock of another server may be wrong, but not so wrong that a call rings tomorrow.
    if call.invite.ts - MOST_LIFETIME_MS <= now < call.lapses:
        return "ringing", None, None
    return "ended", "missed", call.lapses


def _other_party(call: _Call) -> str | None:
    heard = call.answer or call.end
    if heard is not None and heard.sender != call.caller:
        return heard.sender
    invitee = call.invite.text("invitee")
    return invitee if invitee is not None and is_valid_user_id(invitee) else None


def _has_video(invite: CallEvent) -> bool:
    offer = invite.content.get("offer")
    sdp = offer.get("sdp") if isinstance(offer, dict) else None
    return isinstance(sdp, str) and "m=video" in sdp
