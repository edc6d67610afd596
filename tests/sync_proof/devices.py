# SPDX-License-Identifier: Apache-2.0
"""Devices on their wires: carries out the steps of a history that sync, and has the promises checked after each."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.sync_proof import program
from tests.sync_proof.client import Client, Gap, RoomView, query, sync_filter, timeline_filter, without_age
from tests.sync_proof.oracle import MEMBER, Json, Logged
from tests.sync_proof.program import Device, Style
from tests.sync_proof.promises import allowed, check_caught_up, check_gap, check_shape, insist, passes
from tests.sync_proof.transport import Http, WebSocket, path
from tests.sync_proof.world import MARKER, World

_BACKUPS = 4
_PAGE = "4"
"""Events per page when filling gaps: small, so that there are pages."""


class DeviceOnWire:
    """One device of a history."""

    def __init__(self, world: World, http: Http, port: int, device: Device, token: str) -> None:
        self.world = world
        self.style = device.style
        self.user_id = world.users[device.user % len(world.users)]
        self._http = http
        self._port = port
        self._token = token
        self._socket: WebSocket | None = None
        self._filters: dict[int | None, str] = {}
        self._backups: list[Client] = []
        self.client = self._new_client()
        self.seen: dict[str, int] = {}
        """How often which corner was turned: a test that never turns one proves nothing about it."""

    # Steps.

    def sync(self, limit: int | None, *, full_state: bool = False, repeat: bool = False) -> None:
        """Catch up."""
        if self.style.websocket:
            self._catch_up(limit, full_state=full_state)
            return
        since = self.client.token
        response = self._request(limit, full_state=full_state)
        if repeat and since:
            check_same(response, self._ask(self._http, since, limit, full_state=full_state), self.style)
            self._count("repeated")
        self._settle(exact=True)

    def go_back(self, tokens: int, limit: int | None) -> None:
        """Restore a backup, and catch up from there."""
        self.hang()
        if self._backups:
            del self._backups[max(1, len(self._backups) - tokens) :]
            self.client = self._backups[-1].backup()
            self._count("went back")
        self.sync(limit)

    def begin_anew(self, limit: int | None) -> None:
        """Forget everything, and sync from nothing."""
        self.hang()
        self._backups.clear()
        self.client = self._new_client()
        self.sync(limit)

    def hang(self) -> None:
        """Lose the WebSocket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def wait_for(self, step: program.Await, waiting: Http, threads: ThreadPoolExecutor) -> str:
        """Wait in a long poll, on a connection of its own, while a message is sent."""
        room = self.world.rooms[step.room % len(self.world.rooms)]
        sender = self.world.users[step.user % len(self.world.users)]
        now = len(room.events)
        state = room.state(now)
        joined = all(
            (MEMBER, user) in state and state[MEMBER, user].content["membership"] == "join"
            for user in (sender, self.user_id)
        )
        silent = self.world.truth.ever_ignored(self.user_id)
        message = Logged("", "m.room.message", sender, None, {}, {})
        told = passes(message, self.style, self.world.users, silent) and not self.style.websocket
        excluded = any((number - step.room) % len(self.world.rooms) == 0 for number in self.style.not_rooms)
        if not joined or not told or excluded or not self.client.token:
            self.sync(3)
            return "synced"
        before = self._ask(waiting, self.client.token, 3)
        self._apply(before)
        since = self.client.token
        pending = threads.submit(self._ask, waiting, since, 3, timeout=30_000)
        self.world.carry_out(program.Send(step.user, step.room))
        message = room.events[-1]
        answer = pending.result()
        self._apply(answer)
        for _ in range(10):
            if _tells(answer, room.room_id, message):
                break  # else it was woken by something that is not the message, such as presence
            answer = self._ask(waiting, self.client.token, 3, timeout=30_000)
            self._apply(answer)
        insist(_tells(answer, room.room_id, message), "long polls ended without what they waited for")
        self._count("awaited")
        self._settle(exact=True)
        return "awaited"

    def fill(self) -> None:
        """Fill all gaps."""
        gaps, self.client.gaps = self.client.gaps, []
        for gap in gaps:
            events = self._page_back(gap)
            check_gap(self.world, self.client, gap, events)
            for event in events:
                if event["type"] == "m.room.redaction":
                    self.client.learn_redaction(gap.room_id, event)
            self._count("filled")

    def forget(self, room_id: str) -> None:
        """The user forgot a room: so do all the backups; and updates not yet read, which tell of it, are lost."""
        self.hang()
        for client in (self.client, *self._backups):
            client.forget(room_id)

    def check_against_fresh_sync(self) -> None:
        """In the end: all gaps filled, nothing left to learn, and the same picture from a sync from nothing."""
        self.sync(5)
        self.fill()
        fresh = self._new_client()
        response = self._ask(self._http, "", 5, full_state=True)
        old, self.client = self.client, fresh
        self._note_beginning()
        self._apply(response)
        check_caught_up(self.world, fresh, exact=True)
        self.client = old
        compare(self.world, old, fresh)

    # How.

    def _new_client(self) -> Client:
        return Client(self.user_id, self.style)

    def _note_beginning(self) -> None:
        """A client that asks for the first time is not told of what ended before."""
        if not self.client.token:
            self.client.began = {log.room_id: len(log.events) for log in self.world.rooms}

    def _count(self, corner: str) -> None:
        self.seen[corner] = self.seen.get(corner, 0) + 1

    def _filter(self, limit: int | None) -> str:
        if limit not in self._filters:
            rooms = [log.room_id for log in self.world.rooms]
            wanted = sync_filter(self.style, self.world.users, rooms, limit)
            if self.style.named_filter:
                made = self.world.call("POST", path("user", self.user_id, "filter"), self._token, wanted)
                self._filters[limit] = made["filter_id"]
            else:
                self._filters[limit] = json.dumps(wanted)
        return self._filters[limit]

    def _ask(
        self, http: Http, since: str, limit: int | None, *, full_state: bool = False, timeout: int = 0
    ) -> Json:
        parameters = query(
            self.style, self._filter(limit), since=since, full_state=full_state, timeout=timeout
        )
        response: Json = http.call("GET", path("sync"), token=self._token, query=parameters)
        return response

    def _request(self, limit: int | None, *, full_state: bool) -> Json:
        self._note_beginning()
        response = self._ask(self._http, self.client.token, limit, full_state=full_state)
        self._apply(response)
        return response

    def _apply(self, response: Json) -> None:
        check_shape(response, self.user_id, self.style)
        self._count("responses")
        for section, rooms in response.get("rooms", {}).items():
            self.seen[section] = self.seen.get(section, 0) + len(rooms)
            for update in rooms.values():
                self.seen["limited"] = self.seen.get("limited", 0) + update.get("timeline", {}).get(
                    "limited", 0
                )
        self.client.apply(response)

    def _catch_up(self, limit: int | None, *, full_state: bool) -> None:
        """Read updates off the WebSocket until one tells of something just written."""
        mark = self.world.mark(self.user_id)
        if full_state or (self._socket is not None and self._socket.is_stale):
            self.hang()
        if self._socket is None:
            self._note_beginning()
            parameters = query(
                self.style, self._filter(limit), since=self.client.token, full_state=full_state, timeout=0
            )
            self._socket = WebSocket(self._port, {**parameters, "access_token": self._token})
        while self.client.account_data.get(MARKER, {}).get("n", 0) < mark:
            update = self._socket.receive()
            insist("next_batch" in update and "id" not in update, "not an update:", update)
            self._apply(update)
            self._count("frames")
        self._settle(exact=False)

    def _settle(self, *, exact: bool) -> None:
        check_caught_up(self.world, self.client, exact=exact)
        if self.style.fill:
            self.fill()
        self._backups.append(self.client.backup())
        del self._backups[:-_BACKUPS]

    def _page_back(self, gap: Gap) -> list[Json]:
        wanted: dict[str, Any] = timeline_filter(self.style, self.world.users, None)
        parameters = {"limit": _PAGE, "filter": json.dumps(wanted)}
        bounded = bool(self.style.bounded_gaps and gap.to)
        if bounded:
            parameters["to"] = gap.to
        index = self.world.log(gap.room_id).index
        events: list[Json] = []
        token = gap.prev_batch
        for _ in range(100):
            page = self.world.page_back(self._token, gap.room_id, {"from": token, **parameters})
            insist(not page.get("chunk") or "start" in page, "a page without start")
            for event in page["chunk"]:
                if not bounded and index[event["event_id"]] < gap.low:
                    return events
                events.append(event)
            if "end" not in page:
                return events
            token = page["end"]
        raise AssertionError(f"pages without end before {gap}")


def check_same(first: Json, second: Json, style: Style) -> None:
    """The same token gave the same answer; with lazy loading, members may be sent again."""
    if style.lazy == "no":
        insist(without_age(first) == without_age(second), "the same token gave", first, "and then", second)
        return
    for section in ("join", "leave"):
        left, right = (response.get("rooms", {}).get(section, {}) for response in (first, second))
        insist(left.keys() == right.keys(), "the same token gave other rooms:", left.keys(), right.keys())
        for room_id, update in left.items():
            mine, other = without_age(update), without_age(right[room_id])
            names = [name for name in mine if name.endswith(("state", "state_after"))]
            for name in names:
                known = {event["event_id"] for event in mine.pop(name)["events"]}
                again = {event["event_id"] for event in other.pop(name, {"events": []})["events"]}
                insist(known <= again, "the same token gave less state:", known - again)
            insist(mine == {k: v for k, v in other.items() if k not in names}, "not the same:", mine, other)


def compare(world: World, old: Client, fresh: Client) -> None:
    """A device that followed along knows what one that starts from nothing is told."""
    user = old.user_id
    insist(
        old.account_data == fresh.account_data, user, "account data:", old.account_data, fresh.account_data
    )
    told = {room_id for room_id, view in old.rooms.items() if view.section != "leave"}
    # An invite that came while the inviter was ignored is not sent later, but to who starts anew.
    silenced = world.truth.ever_ignored(user)
    ignored, _ = world.truth.ignored_by(user, world.clock, world.clock)
    for room_id, view in fresh.rooms.items():
        unwanted = view.section == "invite" and _inviter(world, user, room_id) in ignored
        insist(not unwanted, user, "is shown an invite of one they ignore, to", room_id)
    tells = {
        room_id
        for room_id, view in fresh.rooms.items()
        if view.section != "leave"
        and (view.section != "invite" or _inviter(world, user, room_id) not in silenced)
    }
    insist(tells <= told, user, "was not told of rooms:", tells - told)
    for room_id in tells:
        mine, theirs = old.rooms[room_id], fresh.rooms[room_id]
        insist(mine.section == theirs.section, user, room_id, "section", mine.section, theirs.section)
        if theirs.section in ("invite", "knock"):
            pictures = [_stripped(world, view, user, room_id) for view in (mine, theirs)]
            insist(pictures[0] == pictures[1], user, room_id, "stripped state", *pictures)
        for key in mine.state.keys() & theirs.state.keys():
            if not allowed(key[0], None, old.style.not_state):
                continue  # known from timelines alone, which need not reach the newest
            same = mine.state[key]["event_id"] == theirs.state[key]["event_id"]
            insist(theirs.section != "join" or same, user, room_id, "state", key)


def _stripped(world: World, view: RoomView, user: str, room_id: str) -> list[Json]:
    """But for the user's own event if it was redacted since, of which nobody tells who is not in the room."""
    log = world.log(room_id)
    redacted = log.state(len(log.events))[MEMBER, user].redacted_at is not None
    return [
        event
        for event in without_age(view.stripped)
        if not (redacted and (event["type"], event["state_key"]) == (MEMBER, user))
    ]


def _inviter(world: World, user: str, room_id: str) -> str:
    log = world.log(room_id)
    return log.state(len(log.events))[MEMBER, user].sender


__all__ = ["DeviceOnWire", "check_same", "compare"]


def _tells(response: Json, room_id: str, message: Logged) -> bool:
    """Whether the message is in the room's timeline."""
    update: Json = response.get("rooms", {}).get("join", {}).get(room_id, {})
    return any(
        event["event_id"] == message.event_id for event in update.get("timeline", {}).get("events", ())
    )
