# SPDX-License-Identifier: Apache-2.0
"""Backups of room keys, as clients use them."""

from __future__ import annotations

from typing import Any

from tests.api.conftest import Arrive
from tests.api.world import segment

ALGORITHM = "m.megolm_backup.v1.curve25519-aes-sha2"
ROOM = "!room:localhost"


def session(first: int = 5, forwarded: int = 0, verified: bool = False) -> dict[str, Any]:
    return {
        "first_message_index": first,
        "forwarded_count": forwarded,
        "is_verified": verified,
        "session_data": {"of": [first, forwarded, verified]},
    }


def test_a_backup_from_its_making_to_its_end(arrive: Arrive) -> None:
    alice, bob = arrive("alice"), arrive("bob")
    assert alice.call("GET", "/room_keys/version").body["errcode"] == "M_NOT_FOUND"
    made = {"algorithm": ALGORITHM, "auth_data": {"public_key": "k"}}
    version = alice.ok("POST", "/room_keys/version", made)["version"]
    query = {"version": version}
    keys = {"rooms": {ROOM: {"sessions": {"s1": session(), "s2/ä": session()}}}}
    first = alice.ok("PUT", "/room_keys/keys", keys, query=query)
    assert first["count"] == 2
    assert alice.ok("PUT", "/room_keys/keys", keys, query=query) == first, "nothing changed"
    assert alice.ok("GET", "/room_keys/keys", query=query) == keys
    room = f"/room_keys/keys/{segment(ROOM)}"
    assert alice.ok("GET", room, query=query) == keys["rooms"][ROOM]
    assert alice.ok("GET", f"{room}/{segment('s2/ä')}", query=query) == session()
    assert alice.call("GET", f"{room}/none", query=query).status == 404
    assert bob.call("GET", "/room_keys/keys", query=query).status == 404
    removed = alice.ok("DELETE", f"{room}/s1", query=query)
    assert removed["count"] == 1 and removed["etag"] != first["etag"]
    shown = alice.ok("GET", f"/room_keys/version/{version}")
    assert shown == {**made, "version": version, **removed}
    changed = {"algorithm": ALGORITHM, "auth_data": {"public_key": "k", "signatures": {}}}
    alice.ok("PUT", f"/room_keys/version/{version}", changed)
    refused = alice.call("PUT", f"/room_keys/version/{version}", {**changed, "algorithm": "other"})
    assert (refused.status, refused.body["errcode"]) == (400, "M_INVALID_PARAM")
    newer = alice.ok("POST", "/room_keys/version", made)["version"]
    refused = alice.call("PUT", "/room_keys/keys", keys, query=query)
    assert (refused.status, refused.body["errcode"]) == (403, "M_WRONG_ROOM_KEYS_VERSION")
    assert refused.body["current_version"] == newer
    alice.ok("DELETE", f"/room_keys/version/{newer}")
    assert alice.call("DELETE", f"/room_keys/version/{newer}").status == 404
    assert alice.ok("GET", "/room_keys/version")["version"] == version
    assert alice.ok("DELETE", room, query=query)["count"] == 0
    assert alice.ok("GET", "/room_keys/keys", query=query) == {"rooms": {}}
    assert alice.ok("GET", room, query=query) == {"sessions": {}}
    assert alice.ok("POST", "/room_keys/version", made)["version"] not in {version, newer}


def test_many_keys_come_back_whole(arrive: Arrive) -> None:
    """Those of several rooms, and of one; more than are read at once."""
    alice = arrive("alice")
    version = alice.ok("POST", "/room_keys/version", {"algorithm": ALGORITHM, "auth_data": {}})["version"]
    query = {"version": version}
    rooms = {
        name: {"sessions": {f"s{number}": session(number) for number in range(1500)}} for name in (ROOM, "!ö")
    }
    summary = alice.ok("PUT", "/room_keys/keys", {"rooms": rooms}, query=query)
    assert summary["count"] == 3000
    assert alice.ok("GET", "/room_keys/keys", query=query) == {"rooms": rooms}
    assert alice.ok("GET", f"/room_keys/keys/{segment(ROOM)}", query=query) == rooms[ROOM]
    shown = alice.ok("GET", "/room_keys/version")
    assert (shown["count"], shown["etag"]) == (3000, summary["etag"])


def test_of_two_keys_for_a_session_the_better_one_stays(arrive: Arrive) -> None:
    """Verified before not, then the lower index, then the lower count: whatever comes first."""
    alice = arrive("alice")
    made = {"algorithm": ALGORITHM, "auth_data": {}}
    query = {"version": alice.ok("POST", "/room_keys/version", made)["version"]}
    best = session(9, 9, True)
    better = [(session(5), session(4, 9)), (session(5, 2), session(5, 1)), (session(0), best)]
    for number, (worse, good) in enumerate(better):
        for place, order in enumerate(((worse, good), (good, worse))):
            path = f"/room_keys/keys/{segment(ROOM)}/{number}-{place}"
            for key in order:
                alice.ok("PUT", path, key, query=query)
            assert alice.ok("GET", path, query=query) == good


def test_what_is_no_key_is_refused(arrive: Arrive) -> None:
    alice = arrive("alice")
    query = {
        "version": alice.ok("POST", "/room_keys/version", {"algorithm": "a", "auth_data": {}})["version"]
    }
    path = f"/room_keys/keys/{segment(ROOM)}/s"
    for bad in ({}, {**session(), "first_message_index": -1}, {**session(), "session_data": "x"}):
        assert alice.call("PUT", path, bad, query=query).status == 400
    assert alice.call("PUT", path, session()).body["errcode"] == "M_MISSING_PARAM"
    for version in ("0", "x", "9" * 30, "1.0"):
        assert alice.call("GET", "/room_keys/keys", query={"version": version}).status == 404
    large = {**session(), "session_data": {"x": "y" * 70_000}}
    assert alice.call("PUT", path, large, query=query).status == 413
