# SPDX-License-Identifier: Apache-2.0
"""Any process answers anything: whatever one has answered, the next request to another goes from there.

Each promise is kept by workers of one machine, who share memory, and by servers of two machines, who share the database
alone. Every request goes to another process than the one before, or may.
"""

from __future__ import annotations

from urllib.parse import quote

from tests.processes.asking import CLIENT, Processes

TIMES = 12


def test_what_was_written_is_read_back(processes: Processes) -> None:
    """Messages, state, account data, profiles: at once."""
    user = processes.user()
    room = processes.room(user)
    token, path = user.access_token, f"{CLIENT}/rooms/{quote(room)}"
    for n in range(TIMES):
        sent = processes.do(
            "PUT", f"{path}/send/m.room.message/t{n}", {"msgtype": "m.text", "body": str(n)}, token=token
        )
        page = processes.do("GET", f"{path}/messages", token=token, query={"dir": "b", "limit": "1"})
        assert page["chunk"][0]["event_id"] == sent["event_id"]
        processes.do("PUT", f"{path}/state/m.room.topic/", {"topic": str(n)}, token=token)
        assert processes.do("GET", f"{path}/state/m.room.topic/", token=token)["topic"] == str(n)
        kept = f"{CLIENT}/user/{quote(user.user_id)}/account_data/org.example.n"
        processes.do("PUT", kept, {"n": n}, token=token)
        assert processes.do("GET", kept, token=token) == {"n": n}
        shown = f"{CLIENT}/profile/{quote(user.user_id)}/displayname"
        processes.do("PUT", shown, {"displayname": str(n)}, token=token)
        assert processes.do("GET", shown, token=token) == {"displayname": str(n)}
        members = processes.do("GET", f"{path}/joined_members", token=token)
        assert members["joined"][user.user_id]["display_name"] == str(n)


def test_a_sync_tells_what_was_answered(processes: Processes) -> None:
    """Whatever process the sync is asked of, and whichever it was asked of before."""
    alice, bob = processes.user(), processes.user()
    room = processes.room(alice)
    path = f"{CLIENT}/rooms/{quote(room)}"
    since = processes.do("GET", f"{CLIENT}/sync", token=bob.access_token)["next_batch"]
    processes.do("POST", f"{path}/join", {}, token=bob.access_token)
    told = processes.do("GET", f"{CLIENT}/sync", token=bob.access_token, query={"since": since})
    assert room in told["rooms"]["join"]
    for n in range(TIMES):
        since = told["next_batch"]
        sent = processes.do(
            "PUT", f"{path}/send/m.room.message/s{n}", {"body": str(n)}, token=alice.access_token
        )
        receipt = f"{path}/receipt/m.read/{quote(sent['event_id'])}"
        processes.do("POST", receipt, {}, token=alice.access_token)
        to = {"messages": {bob.user_id: {"*": {"n": n}}}}
        processes.do("PUT", f"{CLIENT}/sendToDevice/m.example/d{n}", to, token=alice.access_token)
        told = processes.do("GET", f"{CLIENT}/sync", token=bob.access_token, query={"since": since})
        joined = told["rooms"]["join"][room]
        assert [event["event_id"] for event in joined["timeline"]["events"]] == [sent["event_id"]]
        assert joined["unread_notifications"]["notification_count"] == n + 1
        (receipts,) = [each for each in joined["ephemeral"]["events"] if each["type"] == "m.receipt"]
        assert list(receipts["content"]) == [sent["event_id"]]
        assert [each["content"] for each in told["to_device"]["events"]] == [{"n": n}]


def test_typing_is_told_by_every_process(processes: Processes) -> None:
    """Who begins and who stops, before the answer to them."""
    alice, bob = processes.user(), processes.user()
    room = processes.room(alice)
    path = f"{CLIENT}/rooms/{quote(room)}"
    processes.do("POST", f"{path}/join", {}, token=bob.access_token)
    typing = f"{path}/typing/{quote(alice.user_id)}"
    for n in range(TIMES):
        begins = n % 2 == 0
        processes.do("PUT", typing, {"typing": begins, "timeout": 60000}, token=alice.access_token)
        told = processes.do("GET", f"{CLIENT}/sync", token=bob.access_token)
        ephemeral = told["rooms"]["join"][room].get("ephemeral", {"events": []})["events"]
        typists = [each["content"]["user_ids"] for each in ephemeral if each["type"] == "m.typing"]
        assert typists == ([[alice.user_id]] if begins else [])


def test_a_session_that_ended_is_over_everywhere(processes: Processes) -> None:
    """Logged out, its device deleted by another log-in, or its account locked."""
    admin = processes.servers[0].register(f"admin{next(processes.names)}", admin=True)
    who = f"{CLIENT}/account/whoami"
    for _ in range(TIMES):
        user = processes.user()
        tokens = [user.access_token]
        for _ in range(3):
            processes.do("GET", who, token=tokens[-1])  # remembered by whoever answers
        login = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user.user_id},
            "password": user.password,
            "device_id": user.device_id,
        }
        tokens.append(processes.do("POST", f"{CLIENT}/login", login)["access_token"])
        assert processes.ask("GET", who, token=tokens[0]).status == 401
        for _ in range(3):
            processes.do("GET", who, token=tokens[-1])
        lock = f"/_matrix/client/v1/admin/lock/{quote(user.user_id)}"
        processes.do("PUT", lock, {"locked": True}, token=admin.access_token)
        answer = processes.ask("GET", who, token=tokens[-1])
        assert (answer.status, answer.body["errcode"]) == (401, "M_USER_LOCKED")
        processes.do("PUT", lock, {"locked": False}, token=admin.access_token)
        processes.do("GET", who, token=tokens[-1])
        processes.do("POST", f"{CLIENT}/logout", {}, token=tokens[-1])
        assert processes.ask("GET", who, token=tokens[-1]).status == 401


def test_names_of_rooms_are_taken_once_and_found_at_once(processes: Processes) -> None:
    """Aliases, and the directory."""
    user = processes.user()
    for n in range(TIMES // 2):
        alias = f"#{user.user_id[1:].partition(':')[0]}-{n}:localhost"
        room = processes.room(user, visibility="public")
        path = f"{CLIENT}/directory/room/{quote(alias)}"
        processes.do("PUT", path, {"room_id": room}, token=user.access_token)
        assert processes.do("GET", path)["room_id"] == room
        assert processes.ask("PUT", path, {"room_id": room}, token=user.access_token).status == 409
        listed = processes.do("GET", f"{CLIENT}/directory/list/room/{quote(room)}")
        assert listed == {"visibility": "public"}
        processes.do("DELETE", path, token=user.access_token)
        assert processes.ask("GET", path).status == 404


def test_rights_given_and_taken_hold_everywhere(processes: Processes) -> None:
    """Who was removed from a room cannot write there any more, nor read what comes."""
    alice, bob = processes.user(), processes.user()
    room = processes.room(alice)
    path = f"{CLIENT}/rooms/{quote(room)}"
    for n in range(TIMES):
        processes.do("POST", f"{path}/join", {}, token=bob.access_token)
        processes.do("PUT", f"{path}/send/m.room.message/r{n}", {"body": "here"}, token=bob.access_token)
        processes.do("POST", f"{path}/kick", {"user_id": bob.user_id}, token=alice.access_token)
        answer = processes.ask(
            "PUT", f"{path}/send/m.room.message/x{n}", {"body": "gone"}, token=bob.access_token
        )
        assert answer.status == 403
        assert (
            room not in processes.do("GET", f"{CLIENT}/joined_rooms", token=bob.access_token)["joined_rooms"]
        )


def test_keys_are_claimed_once_and_new_devices_are_found(processes: Processes) -> None:
    """One-time keys, and what is asked of devices."""
    alice, bob = processes.user(), processes.user()
    keys = {f"signed_curve25519:{n}": {"key": f"{n:0>43}", "signatures": {}} for n in range(TIMES)}
    processes.do("POST", f"{CLIENT}/keys/upload", {"one_time_keys": keys}, token=bob.access_token)
    claimed = set()
    for _ in range(TIMES):
        wanted = {"one_time_keys": {bob.user_id: {bob.device_id: "signed_curve25519"}}}
        answer = processes.do("POST", f"{CLIENT}/keys/claim", wanted, token=alice.access_token)
        claimed.update(answer["one_time_keys"][bob.user_id][bob.device_id])
        counts = processes.do("GET", f"{CLIENT}/sync", token=bob.access_token)["device_one_time_keys_count"]
        assert counts["signed_curve25519"] == TIMES - len(claimed)
    assert len(claimed) == TIMES
