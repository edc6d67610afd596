# SPDX-License-Identifier: Apache-2.0
"""A device: what an honest client makes of the responses it is given (client-server API, "Syncing").

It believes every response and checks none; `promises` compares what it came to believe with what is true. Beside its
picture of the rooms it notes what arrived in which order, for the promises about timelines.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from tests.sync_proof.oracle import MEMBER, Json, StateKey
from tests.sync_proof.program import Style

ReceiptKey = tuple[str, str, str]
"""User, type of receipt, thread ("" for none)."""


@dataclass(slots=True)
class RoomView:
    """A room as the device pictures it."""

    section: str = ""
    state: dict[StateKey, Json] = field(default_factory=dict)
    summary: Json = field(default_factory=dict)
    account_data: dict[str, Json] = field(default_factory=dict)
    receipts: dict[ReceiptKey, str] = field(default_factory=dict)
    typing: set[str] = field(default_factory=set)
    stripped: list[Json] = field(default_factory=list)
    """The state that came with an invite or knock."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A room's part of one response."""

    section: str
    state: list[Json]
    events: list[Json]
    limited: bool
    prev_batch: str
    joined_since: str
    """The token of the request if the device was in the room at it, else ""."""
    members_known: frozenset[str]
    """Users with member events in the state after it, before the timeline was applied."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Visible events in low ≤ index < high that the device was not given."""

    room_id: str
    prev_batch: str
    to: str
    low: int
    high: int


@dataclass(slots=True)
class Progress:
    """How far a room's timeline has come to the device: kept by `promises`."""

    upto: int = 0
    """Every event with a smaller index arrived, was not for this user, or lies in a gap."""


@dataclass(slots=True)
class Client:
    """Everything a device has stored. Events are shared between backups, and never changed."""

    user_id: str
    style: Style
    token: str = ""
    rooms: dict[str, RoomView] = field(default_factory=dict)
    account_data: dict[str, Json] = field(default_factory=dict)
    arrivals: dict[str, list[Arrival]] = field(default_factory=dict)
    """By room, since the promises were last checked."""
    presence: list[Json] = field(default_factory=list)
    """Likewise."""
    progress: dict[str, Progress] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    checked_at: int = 0
    """The step at which the promises were last checked."""
    began: dict[str, int] = field(default_factory=dict)
    """By room, how many events it had when the device started from nothing."""

    def backup(self) -> Client:
        """A copy that goes its own way."""
        return replace(
            self,
            rooms={
                room_id: replace(
                    view,
                    state=dict(view.state),
                    summary=dict(view.summary),
                    account_data=dict(view.account_data),
                    receipts=dict(view.receipts),
                    typing=set(view.typing),
                )
                for room_id, view in self.rooms.items()
            },
            account_data=dict(self.account_data),
            arrivals={},
            presence=[],
            progress={room_id: replace(progress) for room_id, progress in self.progress.items()},
            gaps=list(self.gaps),
        )

    def apply(self, response: Json) -> None:
        """Take a response to a request with this device's token."""
        rooms = response.get("rooms", {})
        for section in ("join", "leave"):
            for room_id, update in rooms.get(section, {}).items():
                self._apply_room(section, room_id, update)
        for section, name in (("invite", "invite_state"), ("knock", "knock_state")):
            for room_id, update in rooms.get(section, {}).items():
                view = self.rooms.setdefault(room_id, RoomView())
                view.section = section
                view.stripped = update[name]["events"]
                view.typing = set()
        for event in response.get("account_data", {}).get("events", ()):
            self.account_data[event["type"]] = event["content"]
        self.presence.extend(response.get("presence", {}).get("events", ()))
        self.token = response["next_batch"]

    def forget(self, room_id: str) -> None:
        """Drop a room, its timeline and what was to come of it."""
        self.rooms.pop(room_id, None)
        self.progress.pop(room_id, None)
        self.gaps = [gap for gap in self.gaps if gap.room_id != room_id]

    def learn_redaction(self, room_id: str, redaction: Json) -> None:
        """Strip the state event that a redaction names; `content` None stands for "nothing of it is left to see"."""
        target = redaction["content"].get("redacts") or redaction.get("redacts")
        view = self.rooms.get(room_id)
        if view is None:
            return
        for key, event in view.state.items():
            if event["event_id"] == target:
                view.state[key] = {**event, "unsigned": {"redacted_because": redaction}}

    def _apply_room(self, section: str, room_id: str, update: Json) -> None:
        view = self.rooms.setdefault(room_id, RoomView())
        was, view.section = view.section, section
        timeline = update.get("timeline", {"events": []})
        after = self.style.after and (
            "state_after" if self.style.after == "use_state_after" else "org.matrix.msc4222.state_after"
        )
        state = update.get(after or "state", {"events": []})["events"]
        _apply_state(view, state)
        members_known = frozenset(key[1] for key in view.state if key[0] == MEMBER)
        if not after:
            _apply_state(view, [event for event in timeline["events"] if "state_key" in event])
        for event in timeline["events"]:
            if event["type"] == "m.room.redaction":
                self.learn_redaction(room_id, event)
        view.summary.update(update.get("summary", {}))
        for event in update.get("account_data", {}).get("events", ()):
            view.account_data[event["type"]] = event["content"]
        if section == "leave":
            view.typing = set()
        for event in update.get("ephemeral", {}).get("events", ()):
            _apply_ephemeral(view, event)
        self.arrivals.setdefault(room_id, []).append(
            Arrival(
                section,
                state,
                timeline["events"],
                timeline.get("limited", False),
                timeline.get("prev_batch", ""),
                self.token if was == "join" else "",
                members_known,
            )
        )


def _apply_state(view: RoomView, events: list[Json]) -> None:
    for event in events:
        view.state[event["type"], event["state_key"]] = event


def _apply_ephemeral(view: RoomView, event: Json) -> None:
    if event["type"] == "m.typing":
        view.typing = set(event["content"]["user_ids"])
    elif event["type"] == "m.receipt":
        for event_id, kinds in event["content"].items():
            for kind, users in kinds.items():
                for user, receipt in users.items():
                    view.receipts[user, kind, receipt.get("thread_id", "")] = event_id


def query(style: Style, sync_filter: str, *, since: str, full_state: bool, timeout: int) -> dict[str, str]:
    """The parameters of `/sync`, and of the WebSocket."""
    parameters = {"filter": sync_filter, "set_presence": "offline"}
    if style.after:
        parameters[style.after] = "true"
    if since:
        parameters["since"] = since
    if full_state:
        parameters["full_state"] = "true"
    if timeout:
        parameters["timeout"] = str(timeout)
    return parameters


def timeline_filter(style: Style, users: list[str], limit: int | None) -> Json:
    """The `RoomEventFilter` of a style for timelines, which pages of history are asked for with too."""
    wanted: Json = {}
    if style.timeline_types is not None:
        wanted["types"] = list(style.timeline_types)
    if style.timeline_not_types:
        wanted["not_types"] = list(style.timeline_not_types)
    if style.timeline_not_senders:
        wanted["not_senders"] = [users[number] for number in style.timeline_not_senders]
    if limit is not None:
        wanted["limit"] = limit
    return wanted


def sync_filter(style: Style, users: list[str], rooms: list[str], limit: int | None) -> Json:
    """The whole filter of a style."""
    state: Json = {}
    if style.lazy != "no":
        state["lazy_load_members"] = True
    if style.lazy == "redundant":
        state["include_redundant_members"] = True
    if style.not_state:
        state["not_types"] = list(style.not_state)
    room: Json = {"timeline": timeline_filter(style, users, limit), "state": state}
    if style.not_rooms:
        room["not_rooms"] = [rooms[number % len(rooms)] for number in style.not_rooms]
    if style.include_leave:
        room["include_leave"] = True
    return {"room": room}


def without_age(value: Any) -> Any:
    """A response that can be compared with another: no ages, no tokens, presence left out."""
    if isinstance(value, dict):
        return {
            key: without_age(item)
            for key, item in value.items()
            if key not in ("age", "next_batch", "presence", "last_active_ago")
        }
    if isinstance(value, list):
        return [without_age(item) for item in value]
    return value


def nulls(value: Any, where: str = "") -> list[str]:
    """The places of all nulls in a JSON value."""
    if value is None:
        return [where]
    if isinstance(value, dict):
        return [place for key, item in value.items() for place in nulls(item, f"{where}.{key}")]
    if isinstance(value, list):
        return [place for item in value for place in nulls(item, f"{where}[]")]
    return []


def dump(value: Any) -> str:
    """JSON for a report."""
    return json.dumps(value, indent=1, sort_keys=True)
