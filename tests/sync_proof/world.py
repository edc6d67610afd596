# SPDX-License-Identifier: Apache-2.0
"""Carries a history out through the client API, and keeps what truly happened.

User 0 makes every room, never leaves it, and reads it after each step: the room's log is what they find there, and it
must be what the step was to bring about. Everything that is no event (account data, receipts, typing, ignored users)
is remembered from the requests that succeeded.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.serving import usual_workers
from tests.sync_proof import program
from tests.sync_proof.oracle import MEMBER, Json, RoomLog
from tests.sync_proof.program import History
from tests.sync_proof.transport import PATIENCE, Http, Refused, path
from tests.waiting import wait_until

IGNORED = "m.ignored_user_list"
MARKER = "org.example.marker"
_POWERS = (100, 75, 50, 25)
_TYPES_FOR = 120.0
"""Seconds that who types goes on to: the longest there is. Each begins anew when half of it is over."""
_MEMBERSHIP = {"invite": "invite", "kick": "leave", "ban": "ban", "unban": "leave"}
_serial = itertools.count(1)

ReceiptPlace = tuple[str, str, str, str]
"""Room, user, type of receipt, thread."""


@dataclass(frozen=True, slots=True)
class Written:
    """An event that a step is to bring about."""

    type: str
    sender: str
    state_key: str | None = None
    membership: str | None = None


class _ByUser(Protocol):
    @property
    def user(self) -> int: ...


class _InRoom(_ByUser, Protocol):
    @property
    def room(self) -> int: ...


@dataclass(slots=True)
class Truth:
    """What is not in the rooms' logs."""

    data: dict[tuple[str, str, str], Json] = field(default_factory=dict)
    """Account data by user, room ("": global) and type."""
    receipts: dict[ReceiptPlace, int] = field(default_factory=dict)
    """Index of the event that was read."""
    typing: dict[str, dict[str, float]] = field(default_factory=dict)
    """By room, who types there and when they last said so."""
    ignored: dict[str, list[tuple[int, frozenset[str]]]] = field(default_factory=dict)
    """By user, from which step on they ignored whom."""

    def ignored_by(self, user: str, since: int, until: int) -> tuple[frozenset[str], frozenset[str]]:
        """Whom a user ignored all along from one step to another, and whom at any time of it."""
        entries = self.ignored.get(user, [])
        before = [names for at, names in entries if at <= since]
        during = [names for at, names in entries if since < at <= until]
        stretch = [before[-1] if before else frozenset[str](), *during]
        return frozenset.intersection(*stretch), frozenset.union(*stretch)

    def ever_ignored(self, user: str) -> frozenset[str]:
        """Whom a user ever ignored."""
        return frozenset[str]().union(*(names for _, names in self.ignored.get(user, [])))


class World:
    """The users and rooms of one history on a running server."""

    def __init__(self, http: Http, history: History) -> None:
        """Registers users and makes rooms."""
        self._http = http
        self.truth = Truth()
        self.clock = 0
        """Steps carried out."""
        self._count = 0
        tag = next(_serial)
        self.users: list[str] = []
        self._tokens: list[str] = []
        self._names = [f"u{tag}x{number}x{time.time_ns() % 10**9}" for number in range(history.users)]
        for name in self._names:
            made = http.call(
                "POST",
                "/v3/register",
                {"username": name, "password": "pa55word of a test", "auth": {"type": "m.login.dummy"}},
            )
            self.users.append(made["user_id"])
            self._tokens.append(made["access_token"])
        self.rooms = [self._make(room, history) for room in history.rooms]
        self.device_tokens = self._log_in(history)
        self.wrote: list[tuple[str, Written]] = []
        """What the last step brought about, by room."""

    # Reading.

    def number(self, user: str) -> int:
        """A user's number."""
        return self.users.index(user)

    def log(self, room_id: str) -> RoomLog:
        """A room's log."""
        return next(room for room in self.rooms if room.room_id == room_id)

    def page_back(self, token: str, room_id: str, query: dict[str, str]) -> Json:
        """A page of `/messages`, newest first."""
        where = path("rooms", room_id, "messages")
        page: Json = self.call("GET", where, token, query={"dir": "b", **query})
        return page

    def call(
        self, method: str, where: str, token: str, body: object = None, *, query: dict[str, str] | None = None
    ) -> Any:
        """A request with a token. Raises Refused."""
        return self._http.call(method, where, body, token=token, query=query)

    def history(self, user: str, room: RoomLog) -> list[Json] | None:
        """All that a user is shown of a room's past, newest first; None if it is refused."""
        token, events = self._tokens[self.number(user)], []
        query = {"limit": "100"}
        try:
            while True:
                page = self.page_back(token, room.room_id, query)
                events += page["chunk"]
                if "end" not in page:
                    return events
                query["from"] = page["end"]
        except Refused as refused:
            assert refused.status == 403, refused
            return None

    # Steps.

    def carry_out(self, step: program.Step) -> str:
        """Do what a step of users says, and note what came of it; returns how it went, in a word."""
        self.clock += 1
        self.wrote = []
        try:
            _STEPS[type(step)](self, step)
        except Refused as refused:
            assert not self.wrote
            return f"refused: {refused.errcode}"
        return "done"

    def mark(self, user: str) -> int:
        """Write account data whose arrival tells a device that everything before it has arrived."""
        self._count += 1
        self._put_data(user, "", MARKER, {"owner": user, "n": self._count})
        return self._count

    def send(self, step: program.Send) -> None:
        """Messages, one request each."""
        user, room = self._user(step), self._room(step)
        for _ in range(step.count):
            self._count += 1
            where = path("rooms", room.room_id, "send", "m.room.message", f"t{self._count}")
            self.call("PUT", where, self._token(step), {"msgtype": "m.text", "body": f"n {self._count}"})
            self._observe(room, Written("m.room.message", user))

    def set_state(self, step: program.SetState) -> None:
        """A piece of state that was never there before, but for the empty name."""
        self._count += 1
        n = self._count
        contents: dict[str, tuple[str, Json]] = {
            "name": ("m.room.name", {"name": f"name {n}"}),
            "no name": ("m.room.name", {"name": "", "org.example.n": n}),
            "topic": ("m.room.topic", {"topic": f"topic {n}"}),
            "a": ("org.example.a", {"n": n}),
            "b": ("org.example.b", {"n": n}),
            "power": ("m.room.power_levels", self._powers(self._room(step), n)),
        }
        self._put_state(step, *contents[step.kind])

    def set_visibility(self, step: program.SetVisibility) -> None:
        self._count += 1
        self._put_state(
            step,
            "m.room.history_visibility",
            {"history_visibility": step.value, "org.example.n": self._count},
        )

    def set_join_rule(self, step: program.SetJoinRule) -> None:
        self._count += 1
        content: Json = {"join_rule": step.value, "org.example.n": self._count}
        if step.value == "restricted":
            content["allow"] = [{"type": "m.room_membership", "room_id": self.rooms[0].room_id}]
        self._put_state(step, "m.room.join_rules", content)

    def redact(self, step: program.Redact) -> None:
        room = self._room(step)
        target = room.events[-1 - step.back % len(room.events)]
        if target.type in ("m.room.create", "m.room.power_levels", "m.room.redaction"):
            raise Refused(0, {"errcode": "not tried"})
        self._count += 1
        where = path("rooms", room.room_id, "redact", target.event_id, f"t{self._count}")
        self.call("PUT", where, self._token(step), {})
        self._observe(room, Written("m.room.redaction", self._user(step)))

    def own(self, step: program.Own) -> None:
        user, room = self._user(step), self._room(step)
        was = room.membership(user, len(room.events))
        if step.verb == "forget" and was in ("join", "invite", "knock"):
            raise Refused(0, {"errcode": "not tried"})  # some servers leave for the user, some refuse
        where = path("knock" if step.verb == "knock" else "rooms", room.room_id)
        self.call("POST", where if step.verb == "knock" else f"{where}/{step.verb}", self._token(step), {})
        if step.verb == "forget":
            room.forgotten[user] = len(room.events)
            return
        self._member_changed(room, Written(MEMBER, user, user, step.verb), was == step.verb)

    def other(self, step: program.Other) -> None:
        user, room, target = self._user(step), self._room(step), self.users[step.target % len(self.users)]
        was = room.membership(target, len(room.events))
        where = path("rooms", room.room_id, step.verb)
        self.call("POST", where, self._token(step), {"user_id": target})
        becomes = _MEMBERSHIP[step.verb]
        self._member_changed(room, Written(MEMBER, user, target, becomes), was == becomes)

    def rename(self, step: program.Rename) -> None:
        user = self._user(step)
        self._count += 1
        where = path("profile", user, "displayname")
        self.call("PUT", where, self._token(step), {"displayname": f"N {self._count}"})
        for room in self.rooms:
            if room.membership(user, len(room.events)) == "join":
                self._observe(room, Written(MEMBER, user, user, "join"))

    def read(self, step: program.Receipt) -> None:
        user, room = self._user(step), self._room(step)
        index = len(room.events) - 1 - step.back % len(room.events)
        event_id = room.events[index].event_id
        threaded = step.thread and step.kind != "m.fully_read"
        body = {"thread_id": "main"} if threaded else {}
        where = path("rooms", room.room_id, "receipt", step.kind, event_id)
        self.call("POST", where, self._token(step), body)
        place = (room.room_id, user, step.kind, "main" if threaded else "")
        if index > self.truth.receipts.get(place, -1):
            self.truth.receipts[place] = index
            if step.kind == "m.fully_read":
                self.truth.data[user, room.room_id, "m.fully_read"] = {"event_id": event_id}

    def type(self, step: program.Typing) -> None:
        user, room = self._user(step), self._room(step)
        self._put_typing(room.room_id, user, step.typing)
        self.truth.typing.setdefault(room.room_id, {}).pop(user, None)
        if step.typing:
            self.truth.typing[room.room_id][user] = time.monotonic()

    def go_on_typing(self) -> None:
        """Say again what would run out before long: a history may take its time."""
        now = time.monotonic()
        for room_id, typing in self.truth.typing.items():
            for user, said in typing.items():
                if now - said > _TYPES_FOR / 2:
                    self._put_typing(room_id, user, True)
                    typing[user] = now

    def store(self, step: program.Data) -> None:
        user = self._user(step)
        self._count += 1
        room_id = "" if step.room is None else self.rooms[step.room % len(self.rooms)].room_id
        self._put_data(user, room_id, f"org.example.data{step.kind}", {"owner": user, "n": self._count})

    def tag(self, step: program.Tag) -> None:
        user, room = self._user(step), self._room(step)
        where = path("user", user, "rooms", room.room_id, "tags", "u.work")
        if step.present:
            self.call("PUT", where, self._token(step), {"order": 0.5})
            self.truth.data[user, room.room_id, "m.tag"] = {"tags": {"u.work": {"order": 0.5}}}
        else:
            self.call("DELETE", where, self._token(step))
            if (user, room.room_id, "m.tag") in self.truth.data:
                self.truth.data[user, room.room_id, "m.tag"] = {"tags": {}}

    def ignore(self, step: program.Ignore) -> None:
        user = self._user(step)
        names = [self.users[number % len(self.users)] for number in step.targets if number != step.user]
        self._put_data(user, "", IGNORED, {"ignored_users": {name: {} for name in names}})
        self.truth.ignored.setdefault(user, []).append((self.clock, frozenset(names)))

    def be(self, step: program.Presence) -> None:
        where = path("presence", self._user(step), "status")
        self.call("PUT", where, self._token(step), {"presence": step.state})

    # How.

    def _user(self, step: _ByUser) -> str:
        return self.users[step.user % len(self.users)]

    def _token(self, step: _ByUser) -> str:
        return self._tokens[step.user % len(self._tokens)]

    def _room(self, step: _InRoom) -> RoomLog:
        return self.rooms[step.room % len(self.rooms)]

    def _make(self, room: program.Room, history: History) -> RoomLog:
        state: list[Json] = [
            {"type": "m.room.history_visibility", "content": {"history_visibility": room.visibility}},
            {"type": "m.room.join_rules", "content": {"join_rule": room.join_rule}},
        ]
        if room.join_rule == "restricted":
            state[1]["content"] = {"join_rule": "invite"}
        body = {
            "room_version": room.version,
            "initial_state": state,
            "power_level_content_override": self._power_content(room.version),
            "invite": [self.users[n] for n in sorted({*room.invited, *room.members}) if n < history.users],
        }
        made = self.call("POST", path("createRoom"), self._tokens[0], body)
        log = RoomLog(made["room_id"])
        for number in room.members:
            self.call("POST", path("join", log.room_id), self._tokens[number], {})
        for event in reversed(self._newest(log, 100)):
            log.append(event)
        assert log.events[0].type == "m.room.create"
        return log

    def _power_content(self, version: str) -> Json:
        powers = dict(zip(self.users, _POWERS, strict=False))
        if version == "12":  # its creators have power without end, and may not be listed
            del powers[self.users[0]]
        return {
            "users": powers,
            "events_default": 0,
            "state_default": 0,
            "users_default": 0,
            "invite": 0,
            "kick": 25,
            "ban": 50,
            "redact": 50,
            "events": {
                "m.room.power_levels": 50,
                "m.room.history_visibility": 75,
                "m.room.join_rules": 75,
                "m.room.tombstone": 100,
            },
        }

    def _powers(self, room: RoomLog, n: int) -> Json:
        content = room.state(len(room.events))["m.room.power_levels", ""].content
        return {**content, "org.example.n": n}

    def _log_in(self, history: History) -> list[str]:
        """A token for each device: a user's first is the one they registered with."""
        tokens: list[str] = []
        taken: set[int] = set()
        for device in history.devices:
            number = device.user % len(self.users)
            if number not in taken:
                taken.add(number)
                tokens.append(self._tokens[number])
                continue
            body = {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": self._names[number]},
                "password": "pa55word of a test",
            }
            tokens.append(self._http.call("POST", "/v3/login", body)["access_token"])
        return tokens

    def _put_state(self, step: _InRoom, kind: str, content: Json) -> None:
        room = self._room(step)
        self.call("PUT", path("rooms", room.room_id, "state", kind, ""), self._token(step), content)
        self._observe(room, Written(kind, self._user(step), ""))

    def _put_data(self, user: str, room_id: str, kind: str, content: Json) -> None:
        room = ("rooms", room_id) if room_id else ()
        where = path("user", user, *room, "account_data", kind)
        self.call("PUT", where, self._tokens[self.number(user)], content)
        self.truth.data[user, room_id, kind] = content

    def _member_changed(self, room: RoomLog, written: Written, already: bool) -> None:
        self._observe(room, written, optional=already)
        user = str(written.state_key)
        if room.membership(user, len(room.events)) != "join":
            was_typing = self.truth.typing.get(room.room_id, {}).pop(user, None) is not None
            if was_typing and usual_workers() > 1:
                # That is announced by the process where they began, after whoever wrote the event was answered.
                wait_until(
                    lambda: user not in self._typing_in(room.room_id), f"{user} left and types no more"
                )

    def _put_typing(self, room_id: str, user: str, typing: bool) -> None:
        body: Json = {"typing": typing}
        if typing:
            body["timeout"] = round(_TYPES_FOR * 1000)
        self.call("PUT", path("rooms", room_id, "typing", user), self._tokens[self.number(user)], body)

    def _typing_in(self, room_id: str) -> list[str]:
        """Who types there, as user 0 is told."""
        wanted = {"room": {"rooms": [room_id], "timeline": {"limit": 1}}}
        query = {"filter": json.dumps(wanted), "set_presence": "offline"}
        rooms = self.call("GET", path("sync"), self._tokens[0], query=query)["rooms"]["join"]
        news = [event for event in rooms[room_id]["ephemeral"]["events"] if event["type"] == "m.typing"]
        return [user for event in news for user in event["content"]["user_ids"]]

    def _observe(self, room: RoomLog, written: Written, *, optional: bool = False) -> None:
        """Read from the room what a step wrote into it: that, and nothing else."""
        known = room.events[-1].event_id
        page = self._newest(room, 3)
        new = list(itertools.takewhile(lambda event: event["event_id"] != known, page))
        assert len(new) < len(page), f"{room.room_id}: the newest known event is not among {page}"
        if optional and not new:
            return
        found = [
            Written(
                event["type"],
                event["sender"],
                event.get("state_key"),
                event["content"].get("membership") if event["type"] == MEMBER else None,
            )
            for event in new
        ]
        assert found == [written], f"{room.room_id}: {found} where {written} was to be"
        room.append(new[0])
        self.wrote.append((room.room_id, written))

    def _newest(self, room: RoomLog, count: int) -> list[Json]:
        page = self.page_back(self._tokens[0], room.room_id, {"limit": str(count)})
        chunk: list[Json] = page["chunk"]
        return chunk


_STEPS: dict[Any, Callable[[World, Any], None]] = {
    program.Send: World.send,
    program.SetState: World.set_state,
    program.SetVisibility: World.set_visibility,
    program.SetJoinRule: World.set_join_rule,
    program.Redact: World.redact,
    program.Own: World.own,
    program.Other: World.other,
    program.Rename: World.rename,
    program.Receipt: World.read,
    program.Typing: World.type,
    program.Data: World.store,
    program.Tag: World.tag,
    program.Ignore: World.ignore,
    program.Presence: World.be,
}

__all__ = ["PATIENCE", "Truth", "World", "Written"]
