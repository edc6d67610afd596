# SPDX-License-Identifier: Apache-2.0
"""People and a room to try requests on, and what the table's placeholders stand for.

Owns the making of them. `Person` is a logged-in user on a wire of their own, with the few calls every test needs.
"""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from tests.api.endpoints import Endpoint
from tests.api.wire import Wire, request
from tests.serving import Account, Answer, ServerProcess

V3 = "/_matrix/client/v3"
_NO_PRESENCE = quote(json.dumps({"presence": {"not_types": ["*"]}}))
_serial = itertools.count(1)


def segment(text: str) -> str:
    """Text as one segment of a path."""
    return quote(text, safe="")


class Person:
    """A user's device. Paths are below `/_matrix/client/v3`, unless they begin with an underscore segment."""

    def __init__(self, server: ServerProcess, account: Account, address: str = "127.0.0.1") -> None:
        self.server = server
        self.account = account
        self.user_id = account.user_id
        self.token = account.access_token
        self.wire = Wire(server.port, address)

    @classmethod
    def arrives(cls, server: ServerProcess, name: str = "person", *, admin: bool = False) -> Person:
        """A new user; the name is made unique."""
        return cls(server, server.register(f"{name}{next(_serial)}-{secrets.token_hex(3)}", admin=admin))

    @classmethod
    def guest(cls, server: ServerProcess) -> Person:
        """A new guest."""
        made = Wire(server.port).ok("POST", f"{V3}/register?kind=guest", {})
        return cls(server, Account(made["user_id"], "", made["access_token"], made["device_id"]))

    def device(self) -> Person:
        """The same user on another device."""
        made = self.wire.ok(
            "POST",
            f"{V3}/login",
            {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": self.user_id},
                "password": self.account.password,
            },
        )
        account = Account(self.user_id, self.account.password, made["access_token"], made["device_id"])
        return Person(self.server, account)

    def call(self, method: str, path: str, body: object = None, **more: Any) -> Answer:
        whole = path if path.startswith(("/_", "/.")) else V3 + path
        return self.wire.call(method, whole, body, token=self.token, **more)

    def ok(self, method: str, path: str, body: object = None, **more: Any) -> Any:
        """The JSON of a request that must succeed."""
        answer = self.call(method, path, body, **more)
        assert answer.status == 200, f"{method} {path} answered {answer.status}: {answer.raw[:500]!r}"
        return answer.body

    # Rooms

    def creates(self, **options: Any) -> str:
        """A room; returns its id."""
        room_id: str = self.ok("POST", "/createRoom", options)["room_id"]
        return room_id

    def joins(self, room: str) -> None:
        self.ok("POST", f"/join/{segment(room)}", {})

    def leaves(self, room: str) -> None:
        self.ok("POST", f"/rooms/{segment(room)}/leave", {})

    def does(self, room: str, verb: str, other: Person, **more: Any) -> Answer:
        """invite, kick, ban or unban somebody."""
        return self.call("POST", f"/rooms/{segment(room)}/{verb}", {"user_id": other.user_id, **more})

    def says(self, room: str, text: str, transaction: str | None = None) -> str:
        """Send a message; returns the event id."""
        path = f"/rooms/{segment(room)}/send/m.room.message/{transaction or secrets.token_hex(6)}"
        event_id: str = self.ok("PUT", path, {"msgtype": "m.text", "body": text})["event_id"]
        return event_id

    def sets(self, room: str, event_type: str, content: Mapping[str, Any], state_key: str = "") -> Answer:
        """Send a state event."""
        path = f"/rooms/{segment(room)}/state/{segment(event_type)}/{segment(state_key)}"
        return self.call("PUT", path, dict(content))

    def redacts(self, room: str, event_id: str, reason: str | None = None) -> Answer:
        path = f"/rooms/{segment(room)}/redact/{segment(event_id)}/{secrets.token_hex(6)}"
        return self.call("PUT", path, {} if reason is None else {"reason": reason})

    def event(self, room: str, event_id: str) -> Answer:
        return self.call("GET", f"/rooms/{segment(room)}/event/{segment(event_id)}")

    def messages(self, room: str) -> list[dict[str, Any]]:
        """The newest 100 events of a room, oldest first."""
        query = {"dir": "b", "limit": "100"}
        chunk = self.ok("GET", f"/rooms/{segment(room)}/messages", query=query)["chunk"]
        return list(reversed(chunk))

    # Syncing

    def syncs(self, since: str | None = None, *, timeout: int = 0, **more: str) -> Any:
        """One answer of `/sync`."""
        query = {"timeout": str(timeout), **more}
        if since is not None:
            query["since"] = since
        return self.ok("GET", "/sync", query=query)

    def sees(self) -> Any:
        """All that a fresh client is told, but for what passes with time: ages, who is about, the token."""
        told = self.syncs(set_presence="offline")
        del told["presence"], told["next_batch"]
        return _without_ages(told)

    def news(self, since: str) -> list[Any]:
        """What happened since in rooms and account data, but for what comes and goes by itself: who is typing, and
        events that were put off.
        """
        told = _without_ages(self.syncs(since, set_presence="offline"))
        found: list[Any] = list(told.get("account_data", {}).get("events", ()))
        for kind, rooms in told.get("rooms", {}).items():
            for room, parts in rooms.items():
                events = [event for part in parts.values() if "events" in part for event in part["events"]]
                found += [(kind, room, event) for event in events if not _comes_by_itself(event)]
        return found

    def logs_in(self) -> Answer:
        """Try the password."""
        return Wire(self.server.port).call(
            "POST",
            f"{V3}/login",
            {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": self.user_id},
                "password": self.account.password,
            },
        )


def poll(person: Person, since: str) -> bytes:
    """The request of a long-poll that nothing answers soon, not even that they themselves are known to be offline."""
    path = f"{V3}/sync?timeout=60000&since={since}&set_presence=offline&filter={_NO_PRESENCE}"
    return request("GET", path, token=person.token)


def _comes_by_itself(event: Mapping[str, Any]) -> bool:
    return event["type"] == "m.typing" or "org.matrix.msc4140.delay_id" in event.get("unsigned", {})


def _without_ages(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_ages(each) for key, each in value.items() if key != "age"}
    return [_without_ages(each) for each in value] if isinstance(value, list) else value


class World:
    """Everything the placeholders of the table name, on one server."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.me = Person.arrives(server, "me")
        self.admin = Person.arrives(server, "admin", admin=True)
        self.guest = Person.guest(server)
        self._passer_by = Person.arrives(server, "passer-by")
        bob, carol = Person.arrives(server, "bob"), Person.arrives(server, "carol")
        name = f"world-{secrets.token_hex(4)}"
        room = self.me.creates(preset="public_chat", room_alias_name=name, name="World", room_version="11")
        bob.joins(room)
        event = self.me.says(room, "first words")
        messages = self.me.ok("GET", f"/rooms/{segment(room)}/messages", query={"dir": "b", "limit": "1"})
        filter_id = self.me.ok("POST", f"/user/{segment(self.me.user_id)}/filter", {})["filter_id"]
        words = {"Content-Type": "text/plain"}
        uploaded = self.me.ok("POST", "/_matrix/media/v3/upload", b"words", headers=words)
        self.values = {
            "me": self.me.user_id,
            "userId": self.me.user_id,
            "bob": bob.user_id,
            "otherUserId": bob.user_id,
            "carol": carol.user_id,
            "room": room,
            "roomId": room,
            "roomIdOrAlias": room,
            "alias": f"#{name}:{server.server_name}",
            "roomAlias": f"#{name}:{server.server_name}",
            "event": event,
            "eventId": event,
            "device": self.me.account.device_id,
            "deviceId": self.me.account.device_id,
            "filterId": filter_id,
            "token": messages["end"],
            "since": self.me.syncs()["next_batch"],
            "eventType": "org.example.thing",
            "stateKey": "key",
            "relType": "m.thread",
            "txnId": "transaction",
            "receiptType": "m.read",
            "version": "1",
            "sessionId": "session",
            "keyName": "org.example.field",
            "type": "org.example.data",
            "tag": "u.work",
            "ruleId": "org.example.rule",
            "serverName": server.server_name,
            "mediaId": uploaded["content_uri"].rpartition("/")[2],
            "fileName": "words.txt",
        }

    def path(self, template: str, values: Mapping[str, str] | None = None) -> str:
        """A template with its parameters filled, encoded."""
        filled = {**self.values, **(values or {})}
        return "/".join(
            segment(filled[part[1:-1]]) if part.startswith("{") else part for part in template.split("/")
        )

    def fill(self, value: Any) -> Any:
        """A body or query with its `$…` replaced."""
        text = json.dumps(value)
        for name in sorted(self.values, key=len, reverse=True):
            text = text.replace(f"${name}", self.values[name])
        return json.loads(text)

    def passer_by(self) -> Person:
        """Somebody to log out, on a device for the purpose."""
        return self._passer_by.device()

    def caller(self, endpoint: Endpoint) -> Person:
        """Somebody who may call it."""
        return self.admin if endpoint.access == "admins" else self.me
