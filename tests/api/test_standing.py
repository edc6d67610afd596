# SPDX-License-Identifier: Apache-2.0
"""Who an account still is: tokens that run out, accounts locked, suspended or closed, and guests."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import Arrive
from tests.api.wire import Wire, check_refusal, gauge, lines
from tests.api.world import V3, Person, poll, segment
from tests.serving import ServerProcess
from tests.waiting import wait_until

LOCK = "/_matrix/client/v1/admin/lock"
SUSPEND = "/_matrix/client/v1/admin/suspend"


def test_an_expired_token_is_a_soft_log_out(arrive: Arrive) -> None:
    """The client keeps its data and refreshes; after a real log-out it is told to drop everything."""
    person = arrive("forgetful")
    login = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": person.user_id},
        "password": person.account.password,
        "refresh_token": True,
    }
    made = person.wire.ok("POST", f"{V3}/login", login)
    assert 0 < made["expires_in_ms"] <= 1000
    person.token = made["access_token"]
    wait_until(lambda: person.call("GET", "/account/whoami").status == 401, "the token expires")
    expired = person.call("GET", "/sync")
    check_refusal(expired, 401, "M_UNKNOWN_TOKEN")
    assert expired.body["soft_logout"] is True
    refreshed = made

    def logs_out_after_a_refresh() -> bool:
        """On a machine that stops meanwhile, the new token may have ended as well."""
        nonlocal refreshed
        refreshed = person.wire.ok("POST", f"{V3}/refresh", {"refresh_token": refreshed["refresh_token"]})
        person.token = refreshed["access_token"]
        who = person.call("GET", "/account/whoami")
        assert who.status == 401 or who.body["device_id"] == made["device_id"]
        return who.status == 200 and person.call("POST", "/logout").status == 200

    wait_until(logs_out_after_a_refresh, "a refreshed token is good for two requests")
    gone = person.call("GET", "/sync")
    check_refusal(gone, 401, "M_UNKNOWN_TOKEN")
    assert gone.body.get("soft_logout", False) is False
    used = person.wire.call("POST", f"{V3}/refresh", {"refresh_token": refreshed["refresh_token"]})
    check_refusal(used, 401, "M_UNKNOWN_TOKEN")


def test_a_poll_tells_nothing_after_the_log_out(server: ServerProcess, arrive: Arrive) -> None:
    """A request that waits was allowed when it came; news are for who is allowed when they come."""
    person = arrive("leaving")
    other = person.device()
    room = person.creates()
    since = other.syncs(set_presence="offline")["next_batch"]
    wait_until(lambda: gauge(server, "lares_stream_listeners") == 0, "nobody waits whom an earlier test left")
    with lines(server.port, 1) as (line,):
        line.send(poll(other, since))
        wait_until(lambda: gauge(server, "lares_stream_listeners") == 1, "the poll waits")
        other.ok("POST", "/logout")
        secret = person.says(room, "between us")
        answer = line.answer()
    assert secret.encode() not in answer.raw, answer
    check_refusal(answer, 401, "M_UNKNOWN_TOKEN")


def test_a_locked_account_keeps_its_session_for_later(server: ServerProcess, arrive: Arrive) -> None:
    """M_USER_LOCKED with a soft log-out everywhere, but log out; unlocked, the same token works on."""
    person, admin = arrive("locked"), Person.arrives(server, "admin", admin=True)
    room = person.creates()
    lock = f"{LOCK}/{segment(person.user_id)}"
    assert admin.ok("GET", lock) == {"locked": False}
    admin.ok("PUT", lock, {"locked": True})
    assert admin.ok("GET", lock) == {"locked": True}
    for method, path, body in (
        ("GET", "/sync", None),
        ("GET", "/account/whoami", None),
        ("GET", "/publicRooms", None),
        ("GET", "/devices", None),
        ("PUT", f"/rooms/{segment(room)}/send/m.room.message/t", {"body": "x"}),
        ("POST", "/account/deactivate", {}),
    ):
        answer = person.call(method, path, body)
        check_refusal(answer, 401, "M_USER_LOCKED")
        assert answer.body["soft_logout"] is True
    assert person.logs_in().status in {401, 403}
    admin.ok("PUT", lock, {"locked": False})
    assert person.ok("GET", "/account/whoami")["user_id"] == person.user_id
    person.says(room, "back")
    admin.ok("PUT", lock, {"locked": True})
    person.ok("POST", "/logout")
    check_refusal(person.call("GET", "/sync"), 401, "M_UNKNOWN_TOKEN")


def test_a_suspended_account_reads_leaves_and_takes_back(server: ServerProcess, arrive: Arrive) -> None:
    """The lists of the section "Account suspension"."""
    person, friend = arrive("suspended"), arrive("friend")
    admin = Person.arrives(server, "admin", admin=True)
    room = friend.creates(preset="public_chat", power_level_content_override={"users": {person.user_id: 100}})
    closed = friend.creates(preset="private_chat", invite=[person.user_id])
    person.joins(room)
    own, others = person.says(room, "mine"), friend.says(room, "yours")
    suspend = f"{SUSPEND}/{segment(person.user_id)}"
    admin.ok("PUT", suspend, {"suspended": True})
    assert admin.ok("GET", suspend) == {"suspended": True}
    at, me = f"/rooms/{segment(room)}", segment(person.user_id)
    member = {"membership": "join", "displayname": "New"}
    forbidden: list[tuple[str, str, dict[str, Any]]] = [
        ("PUT", f"{at}/send/m.room.message/t", {"body": "x"}),
        ("PUT", f"{at}/send/m.reaction/t", {"m.relates_to": {}}),
        ("PUT", f"{at}/state/m.room.topic/", {"topic": "x"}),
        ("PUT", f"{at}/state/m.room.member/{me}", member),
        ("PUT", f"{at}/redact/{segment(others)}/t", {}),
        ("POST", f"/join/{segment(closed)}", {}),
        ("POST", f"/knock/{segment(closed)}", {}),
        ("POST", f"{at}/invite", {"user_id": admin.user_id}),
        ("POST", f"{at}/kick", {"user_id": friend.user_id}),
        ("POST", f"{at}/ban", {"user_id": friend.user_id}),
        ("POST", "/createRoom", {}),
        ("PUT", f"/profile/{me}/displayname", {"displayname": "New"}),
        ("PUT", f"/profile/{me}/avatar_url", {"avatar_url": "mxc://localhost/a"}),
        ("PUT", f"/profile/{me}/org.example.field", {"org.example.field": 1}),
        ("DELETE", f"/profile/{me}/displayname", {}),
        ("POST", f"{at}/upgrade", {"new_version": "12"}),
    ]
    for method, path, body in forbidden:
        check_refusal(person.call(method, path, body), 403, "M_USER_SUSPENDED")
    assert person.logs_in().status == 200
    assert room in person.syncs()["rooms"]["join"]
    assert person.messages(room)
    assert person.redacts(room, own).status == 200
    person.leaves(closed)
    person.leaves(room)
    admin.ok("PUT", suspend, {"suspended": False})
    person.joins(room)
    person.says(room, "again")


@pytest.mark.parametrize("path", [LOCK, SUSPEND])
def test_administrators_are_not_locked_out(server: ServerProcess, path: str) -> None:
    """Of oneself and of other administrators, and of nobody at all, one hears so."""
    admin, other = (Person.arrives(server, "admin", admin=True) for _ in range(2))
    field = "locked" if path == LOCK else "suspended"
    for user_id, status, errcode in (
        (admin.user_id, 403, "M_FORBIDDEN"),
        (other.user_id, 403, "M_FORBIDDEN"),
        ("@nobody:localhost", 404, "M_NOT_FOUND"),
    ):
        answer = admin.call("PUT", f"{path}/{segment(user_id)}", {field: True})
        check_refusal(answer, status, errcode)
    assert admin.call("PUT", f"{path}/{segment('@a:other.example')}", {field: True}).status in {400, 404}


def test_a_closed_account_is_closed_everywhere(arrive: Arrive) -> None:
    """No token, password, refresh or new account of that name opens it again; it is in no room any more."""
    person, friend = arrive("closing"), arrive("friend")
    room = friend.creates(preset="public_chat")
    person.joins(room)
    second = person.device()
    ask = person.call("POST", "/account/deactivate", {})
    assert ask.status == 401 and ask.body["flows"]
    person.ok("POST", "/account/deactivate", {"auth": _password(person), "erase": True})
    for device in (person, second):
        check_refusal(device.call("GET", "/account/whoami"), 401, "M_UNKNOWN_TOKEN")
    assert person.logs_in().body["errcode"] in {"M_USER_DEACTIVATED", "M_FORBIDDEN"}
    name = person.user_id[1:].partition(":")[0]
    taken = person.wire.call("GET", f"{V3}/register/available", query={"username": name})
    check_refusal(taken, 400, "M_USER_IN_USE")
    wait_until(
        lambda: person.user_id not in friend.ok("GET", f"/rooms/{segment(room)}/joined_members")["joined"],
        "they have left",
    )
    found = friend.ok("POST", "/user_directory/search", {"search_term": name})
    assert found["results"] == []


def _password(person: Person) -> dict[str, Any]:
    return {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": person.user_id},
        "password": person.account.password,
    }


def test_guests_look_talk_and_become_users(server: ServerProcess, arrive: Arrive) -> None:
    """Guest access module: in rooms that take them, under a name, and nothing more."""
    host, guest = arrive("host"), Person.guest(server)
    access = {"type": "m.room.guest_access", "state_key": "", "content": {"guest_access": "can_join"}}
    world = {
        "type": "m.room.history_visibility",
        "state_key": "",
        "content": {"history_visibility": "world_readable"},
    }
    room = host.creates(preset="public_chat", initial_state=[access, world])
    closed = host.creates(preset="public_chat")
    host.says(room, "welcome")
    assert guest.ok("GET", "/account/whoami")["is_guest"] is True
    assert [e["type"] for e in guest.messages(room)][-1] == "m.room.message"
    check_refusal(guest.call("POST", f"/rooms/{segment(closed)}/join", {}), 403, "M_GUEST_ACCESS_FORBIDDEN")
    guest.ok("POST", f"/rooms/{segment(room)}/join", {})
    guest.says(room, "hello")
    me = segment(guest.user_id)
    guest.ok("PUT", f"/profile/{me}/displayname", {"displayname": "Visitor"})
    for method, path, body in (
        ("PUT", f"/profile/{me}/avatar_url", {"avatar_url": "mxc://localhost/a"}),
        ("PUT", f"/rooms/{segment(room)}/redact/$x/t", {}),
        ("POST", "/createRoom", {}),
        ("POST", f"/rooms/{segment(room)}/invite", {"user_id": host.user_id}),
    ):
        check_refusal(guest.call(method, path, body), 403, "M_GUEST_ACCESS_FORBIDDEN")
    assert host.sets(room, "m.room.guest_access", {"guest_access": "forbidden"}).status == 200
    wait_until(
        lambda: guest.user_id not in host.ok("GET", f"/rooms/{segment(room)}/joined_members")["joined"],
        "guests are shown out",
    )
    name = guest.user_id[1:].partition(":")[0]
    upgrade = {
        "username": name,
        "password": "a password of their own",
        "guest_access_token": guest.token,
        "auth": {"type": "m.login.dummy"},
    }
    made = Wire(server.port).ok("POST", f"{V3}/register", upgrade)
    assert made["user_id"] == guest.user_id
    user = Person(server, guest.account)
    user.token = made["access_token"]
    user.joins(closed)
