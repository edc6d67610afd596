# SPDX-License-Identifier: Apache-2.0
"""Two people meet and talk: what a newcomer does on the first evening, over long-poll, with the limits on.

Each step is read where a client would look for it: in what the other side is told.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

from tests.api.wire import PATIENCE, Wire, check_refusal
from tests.api.world import V3, Person, segment
from tests.serving import Account, ServerProcess

Event = dict[str, Any]


class Follower(Person):
    """Somebody whose client follows `/sync` and remembers what it was told."""

    since: str | None = None

    def catches_up(self) -> None:
        self.since = self.syncs(self.since)["next_batch"]

    def hears(self, section: str, room: str, wanted: Callable[[Event], bool]) -> Event:
        """Poll until a section of a joined room has an event as wanted."""
        for _ in range(20):
            told = self.syncs(self.since, timeout=30_000)
            self.since = told["next_batch"]
            for event in told["rooms"]["join"].get(room, {}).get(section, {}).get("events", ()):
                if wanted(event):
                    return dict(event)
        raise AssertionError("never heard of it")

    def hears_while(self, action: Callable[[], Any], section: str, room: str, kind: str) -> Event:
        """As `hears`, beginning to wait before the other side acts."""
        found: list[Event] = []
        ears = threading.Thread(target=lambda: found.append(self.hears(section, room, _of_type(kind))))
        ears.start()
        action()
        ears.join(PATIENCE)
        assert found, f"{kind} was never heard of"
        return found[0]


def _of_type(kind: str) -> Callable[[Event], bool]:
    return lambda event: event["type"] == kind


def _registration_token(server: ServerProcess) -> str:
    """What the first start prints for whoever wants the first account."""
    found = re.search(r"one-time token (\S+)", "\n".join(server.printed()))
    assert found is not None, server.printed()
    return found[1]


def _registers_by_token(server: ServerProcess, name: str, password: str) -> Account:
    """Go through the stages one by one, as a client that asks first."""
    wire, path = Wire(server.port), f"{V3}/register"
    body = {"username": name, "password": password, "initial_device_display_name": "Her phone"}
    asked = wire.call("POST", path, body)
    assert asked.status == 401
    assert ["m.login.registration_token"] in [flow["stages"][:1] for flow in asked.body["flows"]]
    session, stages = asked.body["session"], asked.body["flows"][0]["stages"]
    wrong = {"type": stages[0], "token": "wrong", "session": session}
    refused = wire.call("POST", path, {**body, "auth": wrong})
    assert (refused.status, refused.body["errcode"], refused.body["session"]) == (401, "M_FORBIDDEN", session)
    token = _registration_token(server)
    valid = wire.ok(
        "GET", "/_matrix/client/v1/register/m.login.registration_token/validity", query={"token": token}
    )
    assert valid == {"valid": True}
    for stage in stages:
        answer = wire.call(
            "POST", path, {**body, "auth": {"type": stage, "token": token, "session": session}}
        )
    assert answer.status == 200, answer
    made = answer.body
    return Account(made["user_id"], password, made["access_token"], made["device_id"])


def test_an_evening_with_friends(untouched: ServerProcess) -> None:
    account = _registers_by_token(untouched, "alice", "correct horse battery")
    assert account.user_id == "@alice:localhost"
    used = {"token": _registration_token(untouched)}
    path = "/_matrix/client/v1/register/m.login.registration_token/validity"
    assert Wire(untouched.port).ok("GET", path, query=used) == {"valid": False}

    # Alice comes back on another device; the first one stays logged in.
    alice = Follower(untouched, account).device()
    alice = Follower(untouched, alice.account)
    devices = {device["device_id"] for device in alice.ok("GET", "/devices")["devices"]}
    assert devices == {account.device_id, alice.account.device_id}
    bob = Follower(untouched, untouched.register("bob"))

    # She makes a room and asks Bob in, who sees what he is asked into.
    room = alice.creates(name="Kitchen", preset="private_chat", invite=[bob.user_id], is_direct=True)
    invited = bob.syncs()
    shown = {event["type"]: event for event in invited["rooms"]["invite"][room]["invite_state"]["events"]}
    assert shown["m.room.name"]["content"] == {"name": "Kitchen"}
    own = next(event for event in shown.values() if event.get("state_key") == bob.user_id)
    assert (own["sender"], own["content"]["membership"]) == (alice.user_id, "invite")
    bob.since = invited["next_batch"]
    alice.catches_up()
    bob.joins(room)
    joined = alice.hears("timeline", room, lambda event: event.get("state_key") == bob.user_id)
    assert joined["content"]["membership"] == "join"
    bob.catches_up()

    # They talk, each waiting for the other.
    said: list[str] = []
    heard = bob.hears_while(
        lambda: said.append(alice.says(room, "Hungry?")), "timeline", room, "m.room.message"
    )
    assert (heard["event_id"], heard["content"]["body"]) == (said[0], "Hungry?")
    typed = f"/rooms/{segment(room)}/typing/{segment(bob.user_id)}"
    alice.catches_up()
    heard = alice.hears_while(
        lambda: bob.ok("PUT", typed, {"typing": True, "timeout": 120_000}), "ephemeral", room, "m.typing"
    )
    assert heard["content"] == {"user_ids": [bob.user_id]}
    oops = bob.says(room, "Yes, and btw my PIN is 1234")
    heard = alice.hears("timeline", room, lambda event: event["event_id"] == oops)

    # Bob thinks better of it.
    assert bob.redacts(room, oops, "oops").status == 200
    redaction = alice.hears("timeline", room, _of_type("m.room.redaction"))
    assert redaction["content"]["reason"] == "oops"
    assert oops in {redaction["content"].get("redacts"), redaction.get("redacts")}
    struck = alice.event(room, oops).body
    assert struck["content"] == {}
    assert struck["unsigned"]["redacted_because"]["event_id"] == redaction["event_id"]

    # Alice has read it; Bob is told so.
    bob.catches_up()
    alice.ok("POST", f"/rooms/{segment(room)}/receipt/m.read/{segment(redaction['event_id'])}", {})
    receipt = bob.hears("ephemeral", room, _of_type("m.receipt"))
    assert alice.user_id in receipt["content"][redaction["event_id"]]["m.read"]

    # She is about, and changes her name, which the room and her profile show.
    alice.ok(
        "PUT", f"/presence/{segment(alice.user_id)}/status", {"presence": "online", "status_msg": "cooking"}
    )
    about = bob.ok("GET", f"/presence/{segment(alice.user_id)}/status")
    assert (about["presence"], about["status_msg"]) == ("online", "cooking")
    alice.ok("PUT", f"/profile/{segment(alice.user_id)}/displayname", {"displayname": "Alice L."})
    renamed = bob.hears("timeline", room, lambda event: event.get("state_key") == alice.user_id)
    assert renamed["content"]["displayname"] == "Alice L."
    assert bob.ok("GET", f"/profile/{segment(alice.user_id)}")["displayname"] == "Alice L."

    # Bob goes, and logs out.
    alice.catches_up()
    bob.leaves(room)
    left = alice.hears("timeline", room, lambda event: event.get("state_key") == bob.user_id)
    assert left["content"]["membership"] == "leave"
    assert room in bob.syncs(bob.since)["rooms"]["leave"]
    check_refusal(bob.call("PUT", f"/rooms/{segment(room)}/send/m.room.message/late", {}), 403, "M_FORBIDDEN")
    bob.ok("POST", "/logout")
    check_refusal(bob.call("GET", "/account/whoami"), 401, "M_UNKNOWN_TOKEN")
    alice.ok("POST", "/logout/all")
    for person in (alice, Person(untouched, account)):
        check_refusal(person.call("GET", "/account/whoami"), 401, "M_UNKNOWN_TOKEN")
