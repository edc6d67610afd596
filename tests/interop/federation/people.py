# SPDX-License-Identifier: Apache-2.0
"""A person at a client of some homeserver, ours or another's: a few calls, and waiting for news by `/sync`.

Owns what such a client remembers: its timelines, the state it was told, invites, and what stood beside them. Knows the
client-server API only, so that the same conversation can be held from either side.
"""

from __future__ import annotations

import http.client
import itertools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote, urlencode

Json = dict[str, Any]

PATIENCE = 180.0
"""Seconds until what was waited for is taken not to come: some of it comes only with another server's next attempt."""

_transactions = itertools.count(1)


class Refused(AssertionError):
    """The server answered with an error."""

    def __init__(self, status: int, body: Any, what: str) -> None:
        super().__init__(f"{what}: {status} {body}")
        self.status = status
        self.errcode = body.get("errcode") if isinstance(body, dict) else None


class Homeserver(Protocol):
    """Where clients connect."""

    @property
    def server_name(self) -> str: ...

    @property
    def client_port(self) -> int: ...

    def log(self) -> str: ...


@dataclass(slots=True)
class RoomView:
    """What the client was told of a room."""

    timeline: list[Json] = field(default_factory=list)
    state: dict[tuple[str, str], Json] = field(default_factory=dict)
    typing: list[str] = field(default_factory=list)
    receipts: dict[tuple[str, str], str] = field(default_factory=dict)
    """(user, receipt type) → event id."""
    prev_batch: str | None = None
    """Of the first timeline that was received since the last gap."""
    limited: bool = False

    def bodies(self) -> list[str]:
        """The texts said in the room, in order."""
        return [event["content"]["body"] for event in self.timeline if "body" in event["content"]]

    def membership(self, user_id: str) -> str | None:
        event = self.state.get(("m.room.member", user_id))
        return None if event is None else event["content"].get("membership")


class Person:
    """One account with one device."""

    def __init__(self, server: Homeserver, user_id: str, token: str) -> None:
        self.server = server
        self.user_id = user_id
        self.token = token
        self.joined: dict[str, RoomView] = {}
        self.invited: dict[str, list[Json]] = {}
        self.knocked: dict[str, list[Json]] = {}
        self.left: set[str] = set()
        self.presence: dict[str, Json] = {}
        self.to_device: list[Json] = []
        self.changed_devices: set[str] = set()
        self._since: str | None = None

    def __repr__(self) -> str:
        return f"<{self.user_id}>"

    # Calls.

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, Any] | None = None,
        timeout: float = PATIENCE,
    ) -> Any:
        """One request below `/_matrix/client`, e.g. `v3/sync`; the answer's JSON. Raises Refused."""
        target = f"/_matrix/client/{path}" + (f"?{urlencode(query, doseq=True)}" if query else "")
        connection = http.client.HTTPConnection("127.0.0.1", self.server.client_port, timeout=timeout)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        try:
            payload = None if body is None else json.dumps(body).encode()
            connection.request(method, target, payload, headers)
            response = connection.getresponse()
            raw = response.read()
        except TimeoutError as error:
            error.add_note(f"{method} {target}\n{self.server.log()[-6000:]}")
            raise
        finally:
            connection.close()
        answer = json.loads(raw) if raw else None
        if response.status != 200:
            raise Refused(response.status, answer, f"{self.user_id} {method} {target}")
        return answer

    def upload(self, data: bytes, content_type: str, name: str) -> str:
        """Upload a file; its content URI."""
        path = f"/_matrix/media/v3/upload?{urlencode({'filename': name})}"
        status, _, raw = self._exchange("POST", path, data, content_type)
        assert status == 200, raw
        return str(json.loads(raw)["content_uri"])

    def download(self, uri: str, kind: str = "download", **query: object) -> tuple[str, str, bytes]:
        """What is behind a content URI: type, disposition, bytes. Raises Refused."""
        path = f"/_matrix/client/v1/media/{kind}/{uri.removeprefix('mxc://')}?{urlencode(query)}"
        status, headers, raw = self._exchange("GET", path)
        if status != 200:
            raise Refused(status, json.loads(raw), path)
        return headers["content-type"], headers["content-disposition"], raw

    def _exchange(
        self, method: str, target: str, body: bytes | None = None, content_type: str = "application/json"
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.client_port, timeout=PATIENCE)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": content_type}
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def create_room(self, **wishes: Any) -> str:
        """Make a room, public unless told otherwise; its id."""
        wishes.setdefault("preset", "public_chat")
        return str(self.call("POST", "v3/createRoom", wishes)["room_id"])

    def join(self, room: str, *via: str) -> str:
        """Join by id or alias, asking those servers; the room id."""
        query = {"via": list(via), "server_name": list(via)}
        return str(self.call("POST", f"v3/join/{_segment(room)}", {}, query=query)["room_id"])

    def knock(self, room: str, *via: str) -> str:
        query = {"via": list(via), "server_name": list(via)}
        return str(
            self.call("POST", f"v3/knock/{_segment(room)}", {"reason": "please"}, query=query)["room_id"]
        )

    def membership(self, room_id: str, action: str, target: Person | None = None, **more: Any) -> None:
        """`invite`, `kick`, `ban`, `unban`, `leave`, `forget`."""
        body = {**more, **({} if target is None else {"user_id": target.user_id})}
        self.call("POST", f"v3/rooms/{_segment(room_id)}/{action}", body)

    def send(
        self, room_id: str, event_type: str = "m.room.message", content: Mapping[str, Any] | None = None
    ) -> str:
        """Send an event; its id."""
        path = f"v3/rooms/{_segment(room_id)}/send/{event_type}/t{next(_transactions)}"
        return str(self.call("PUT", path, content)["event_id"])

    def say(self, room_id: str, body: str) -> str:
        return self.send(room_id, content={"msgtype": "m.text", "body": body})

    def redact(self, room_id: str, event_id: str) -> str:
        path = f"v3/rooms/{_segment(room_id)}/redact/{_segment(event_id)}/t{next(_transactions)}"
        return str(self.call("PUT", path, {"reason": "better not"})["event_id"])

    def set_state(
        self, room_id: str, event_type: str, content: Mapping[str, Any], state_key: str = ""
    ) -> str:
        path = f"v3/rooms/{_segment(room_id)}/state/{event_type}/{_segment(state_key)}"
        return str(self.call("PUT", path, content)["event_id"])

    def state(self, room_id: str) -> dict[tuple[str, str], str]:
        """The room's present state as the server sees it: key → event id."""
        events = self.call("GET", f"v3/rooms/{_segment(room_id)}/state")
        return {(event["type"], event["state_key"]): event["event_id"] for event in events}

    def messages(self, room_id: str, **query: Any) -> Json:
        answer = self.call("GET", f"v3/rooms/{_segment(room_id)}/messages", query={"dir": "b", **query})
        assert isinstance(answer, dict)
        return answer

    def history(self, room_id: str, *, limit: int = 100) -> list[Json]:
        """Everything the server can show of the room, newest first, page by page."""
        found: list[Json] = []
        token: str | None = None
        while True:
            query = {"limit": limit} if token is None else {"limit": limit, "from": token}
            page = self.messages(room_id, **query)
            found += page["chunk"]
            if page.get("end") in (None, token):
                return found
            token = page["end"]

    def learns(
        self, method: str, path: str, body: object = None, *, query: Mapping[str, Any] | None = None
    ) -> Any:
        """As `call`, once more for as long as another server, whose answer it takes, is slow to give one."""
        answers: list[Any] = []

        def told(me: Person) -> bool:
            try:
                answers.append(me.call(method, path, body, query=query))
            except Refused as refusal:
                if refusal.status not in (502, 504):
                    raise
            return bool(answers)

        self.until(told, f"an answer to {method} {path}")
        return answers[0]

    # News.

    def sync(self, *, timeout: float = 0.0) -> None:
        """One `/sync`, waiting up to `timeout` seconds for news."""
        query: dict[str, Any] = {"timeout": int(timeout * 1000)}
        if self._since is not None:
            query["since"] = self._since
        answer = self.call("GET", "v3/sync", query=query, timeout=timeout + PATIENCE)
        self._since = answer["next_batch"]
        rooms = answer.get("rooms", {})
        for room_id, told in rooms.get("join", {}).items():
            self._take_joined(room_id, told)
        for room_id, told in rooms.get("invite", {}).items():
            self.invited[room_id] = told["invite_state"]["events"]
        for room_id, told in rooms.get("knock", {}).items():
            self.knocked[room_id] = told["knock_state"]["events"]
        for room_id, told in rooms.get("leave", {}).items():
            if room_id in self.joined:
                _take_events(self.joined.pop(room_id), told)
            self.invited.pop(room_id, None)
            self.knocked.pop(room_id, None)
            self.left.add(room_id)
        for event in answer.get("presence", {}).get("events", ()):
            self.presence[event["sender"]] = event["content"]
        self.to_device += answer.get("to_device", {}).get("events", ())
        self.changed_devices.update(answer.get("device_lists", {}).get("changed", ()))

    def until(self, happened: Callable[[Person], object], what: str) -> None:
        """Sync until it has happened."""
        deadline = time.monotonic() + PATIENCE
        self.sync()
        while not happened(self):
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"{self.user_id} waited in vain: {what}\n{self.server.log()[-6000:]}")
            self.sync(timeout=min(left, 5.0))

    def hears(self, room_id: str, body: str) -> None:
        """Wait until somebody said it in the room."""
        self.until(
            lambda me: room_id in me.joined and body in me.joined[room_id].bodies(), f"hearing {body!r}"
        )

    def sees_membership(self, room_id: str, who: Person, membership: str) -> None:
        self.until(
            lambda me: room_id in me.joined and me.joined[room_id].membership(who.user_id) == membership,
            f"seeing {who.user_id} as {membership}",
        )

    def is_invited(self, room_id: str) -> None:
        self.until(lambda me: room_id in me.invited, f"an invite to {room_id}")

    def is_in(self, room_id: str) -> None:
        self.until(lambda me: room_id in me.joined, f"being in {room_id}")

    def is_out(self, room_id: str) -> None:
        self.until(lambda me: room_id in me.left and room_id not in me.joined, f"being out of {room_id}")

    def _take_joined(self, room_id: str, told: Json) -> None:
        self.left.discard(room_id)
        self.invited.pop(room_id, None)
        self.knocked.pop(room_id, None)
        view = self.joined.setdefault(room_id, RoomView())
        _take_events(view, told)
        for event in told.get("ephemeral", {}).get("events", ()):
            if event["type"] == "m.typing":
                view.typing = event["content"]["user_ids"]
            elif event["type"] == "m.receipt":
                for event_id, kinds in event["content"].items():
                    for kind, users in kinds.items():
                        for user_id in users:
                            view.receipts[user_id, kind] = event_id


def _take_events(view: RoomView, told: Json) -> None:
    timeline = told.get("timeline", {})
    if timeline.get("limited") or view.prev_batch is None:
        view.limited = bool(timeline.get("limited"))
        view.prev_batch = timeline.get("prev_batch", view.prev_batch)
    events = timeline.get("events", ())
    if timeline.get(
        "limited"
    ):  # what comes after a gap may begin before it, as where a room has become known wholly
        again = {event["event_id"] for event in events}
        view.timeline = [event for event in view.timeline if event["event_id"] not in again]
    for event in (*told.get("state", {}).get("events", ()), *events):
        if "state_key" in event:
            view.state[event["type"], event["state_key"]] = event
    view.timeline += events


def _segment(text: str) -> str:
    return quote(text, safe="")
