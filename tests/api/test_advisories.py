# SPDX-License-Identifier: Apache-2.0
"""What has gone wrong in other homeservers, tried on this one through its client API.

Each test names the advisory. Those about other servers, keys, media and previews belong to the parts that have them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import Arrive
from tests.api.wire import Wire, check_refusal
from tests.api.world import V3, segment
from tests.serving import ServerProcess, serving

MEMBER, POWER = "m.room.member", "m.room.power_levels"


def test_advisory_3_secrets_nobody_set_are_random(tmp_path: Path) -> None:
    """CVE-2019-5885: two servers that were told no secret share none, and no obvious one opens them."""
    made: list[str] = []
    for name in ("a", "b"):
        settings = {"registration": {"shared_secret": None}}
        with serving(tmp_path / name, settings=settings) as server:
            for guess in ("", "None", "null", "secret", server.server_name):
                assert _registers_by_secret(server, guess) == 403
            secret = (server.data_dir / "registration_secret").read_text().strip()
            assert len(secret) >= 32
            assert (server.data_dir / "registration_secret").stat().st_mode & 0o077 == 0
            assert (server.data_dir / "signing.key").stat().st_mode & 0o077 == 0
            made += [secret, (server.data_dir / "signing.key").read_text()]
    assert len(set(made)) == 4


def _registers_by_secret(server: ServerProcess, secret: str) -> int:
    path = "/_synapse/admin/v1/register"
    nonce = server.call("GET", path).body["nonce"]
    fields = [nonce, "intruder", "password", "admin"]
    mac = hmac.new(secret.encode(), "\0".join(fields).encode(), hashlib.sha1).hexdigest()
    body = {"nonce": nonce, "username": "intruder", "password": "password", "admin": True, "mac": mac}
    return server.call("POST", path, body).status


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "9007199254740992", "1.5"])
def test_numbers_that_canonical_json_lacks(arrive: Arrive, number: str) -> None:
    """CVE-2020-26890: refused in every kind of event, by every way to send one, and the room goes on."""
    person = arrive("numbers")
    room = person.creates(room_version="11")
    before = person.sees()
    at, me = f"/rooms/{segment(room)}", segment(person.user_id)
    broken = b'{"membership": "join", "n": [{"m": %s}]}' % number.encode()
    for method, path in (
        ("PUT", f"{at}/state/{MEMBER}/{me}"),
        ("PUT", f"{at}/state/org.example.x/"),
        ("PUT", f"{at}/send/m.room.message/t"),
    ):
        answer = person.call(method, path, broken)
        assert answer.status == 400 and answer.body["errcode"] in {"M_BAD_JSON", "M_NOT_JSON"}, answer
    initial = b'{"initial_state": [{"type": "x", "state_key": "", "content": %s}]}' % broken
    assert person.call("POST", "/createRoom", initial).status == 400
    creation = b'{"creation_content": %s}' % broken
    assert person.call("POST", "/createRoom", creation).status == 400
    assert person.sees() == before


def test_advisory_10_the_members_of_a_private_room_are_its_own_business(arrive: Arrive) -> None:
    """CVE-2021-39164: no way of reading tells a stranger more of a private room than of one that is not."""
    host, stranger, former = arrive("host"), arrive("stranger"), arrive("former")
    room = host.creates(preset="private_chat", invite=[former.user_id], name="Secret")
    former.joins(room)
    former.leaves(room)
    after = host.says(room, "after they left")
    for place in (room, "!notaroom:localhost"):
        at = f"/rooms/{segment(place)}"
        for path in (
            f"{at}/members",
            f"{at}/joined_members",
            f"{at}/state",
            f"{at}/state/{MEMBER}/{segment(host.user_id)}",
            f"{at}/state/m.room.name",
            f"{at}/messages?dir=b",
            f"{at}/initialSync",
            f"{at}/aliases",
            f"{at}/timestamp_to_event?ts=1&dir=f",
            f"{at}/context/{segment(after)}",
            f"{at}/hierarchy",
        ):
            answer = stranger.call("GET", path)
            assert answer.status in {403, 404}, (path, answer)
            assert "Secret" not in answer.raw.decode() and host.user_id not in answer.raw.decode()
        assert stranger.call("GET", f"{at}/event/{segment(after)}").status in {403, 404}
        assert stranger.call("GET", f"/room_summary/{segment(place)}").status in {403, 404}
    assert former.event(room, after).status in {403, 404}
    token = former.ok("GET", f"/rooms/{segment(room)}/messages", query={"dir": "b"})["start"]
    members = former.ok("GET", f"/rooms/{segment(room)}/members", query={"at": token})["chunk"]
    assert {event["state_key"] for event in members} == {host.user_id, former.user_id}


def test_advisory_18_receipts_only_by_who_can_see_the_event(arrive: Arrive) -> None:
    """CVE-2023-42453: none for a room one is not in, none for an event that is not there, none of somebody else."""
    host, stranger, guest = arrive("host"), arrive("stranger"), arrive("guest")
    room, elsewhere = host.creates(), stranger.creates()
    event, foreign = host.says(room, "read me"), stranger.says(elsewhere, "not me")
    since = host.syncs()["next_batch"]
    forged = f"/rooms/{segment(room)}/receipt/m.read/{segment(event)}"
    check_refusal(stranger.call("POST", forged, {}), 403, "M_FORBIDDEN")
    markers = f"/rooms/{segment(room)}/read_markers"
    check_refusal(
        stranger.call("POST", markers, {"m.read": event, "m.fully_read": event}), 403, "M_FORBIDDEN"
    )
    for event_id in (foreign, "$unknown"):
        host.call("POST", f"/rooms/{segment(room)}/receipt/m.read/{segment(event_id)}", {})
    typing = f"/rooms/{segment(room)}/typing/"
    check_refusal(
        stranger.call("PUT", typing + segment(stranger.user_id), {"typing": True}), 403, "M_FORBIDDEN"
    )
    check_refusal(host.call("PUT", typing + segment(guest.user_id), {"typing": True}), 403, "M_FORBIDDEN")
    told = host.syncs(since)["rooms"]["join"].get(room, {}).get("ephemeral", {"events": []})
    assert foreign not in json.dumps(told) and stranger.user_id not in json.dumps(told)


def test_advisory_02_a_room_without_power_levels_is_its_creator_s(arrive: Arrive) -> None:
    """CVE-2018-12423: without the event only the creator has power; with it, nobody gives themselves more."""
    host, member = arrive("host"), arrive("member")
    room = host.creates(preset="public_chat", room_version="10")
    member.joins(room)
    levels = host.ok("GET", f"/rooms/{segment(room)}/state/{POWER}")
    grabbed = {**levels, "users": {**levels["users"], member.user_id: 100}}
    check_refusal(member.sets(room, POWER, grabbed), 403, "M_FORBIDDEN")
    check_refusal(member.sets(room, POWER, {}), 403, "M_FORBIDDEN")
    check_refusal(member.does(room, "kick", host), 403, "M_FORBIDDEN")
    check_refusal(member.sets(room, "m.room.create", {"creator": member.user_id}), 403, "M_FORBIDDEN")
    check_refusal(member.sets(room, "m.room.name", {"name": "mine"}), 403, "M_FORBIDDEN")


def test_advisory_25_no_power_by_the_name_of_a_room(server: ServerProcess, arrive: Arrive) -> None:
    """CVE-2024-6303: who owns #admins owns an alias; nobody moves or removes that of others."""
    host, thief = arrive("host"), arrive("thief")
    alias = f"#admins:{server.server_name}"
    room = host.creates(preset="public_chat", room_alias_name="admins")
    own = thief.creates(preset="public_chat")
    thief.joins(room)
    path = f"/directory/room/{segment(alias)}"
    assert thief.call("PUT", path, {"room_id": own}).status == 409
    check_refusal(thief.call("DELETE", path), 403, "M_FORBIDDEN")
    assert thief.sets(own, "m.room.canonical_alias", {"alias": alias}).body["errcode"] == "M_BAD_ALIAS"
    check_refusal(thief.sets(room, "m.room.canonical_alias", {}), 403, "M_FORBIDDEN")
    assert host.ok("GET", path)["room_id"] == room
    for person in (host, thief):
        whois = (
            f"/_matrix/client/v3/admin/whois/{segment(host.user_id if person is thief else thief.user_id)}"
        )
        check_refusal(person.call("GET", whois), 403, "M_FORBIDDEN")
    host.ok("DELETE", path)
    thief.ok("PUT", path, {"room_id": own})
    assert host.call("DELETE", path).status == 403, "it is the thief's now"


def test_pages_run_nothing_a_link_brings(server: ServerProcess) -> None:
    """CVE-2020-26891: whatever stands in the address is text, and no script but the page's own may run."""
    wire = Wire(server.port)
    bad = '"><script>alert(1)</script>'
    for stage in ("m.login.dummy", "m.login.terms", "m.login.registration_token", bad):
        path = f"{V3}/auth/{segment(stage)}/fallback/web"
        for query in ({"session": bad}, {"session": "x", "error": bad}):
            answer = wire.call("GET", path, query=query)
            assert answer.status < 500
            assert "<script>alert" not in answer.raw.decode()
            if "html" in answer.headers["content-type"]:
                policy = answer.headers["content-security-policy"]
                assert "unsafe-inline" not in _directive(policy, "script-src")
                assert answer.headers.get("x-content-type-options", "nosniff") == "nosniff"


def _directive(policy: str, name: str) -> str:
    found = re.search(rf"(?:{name}|default-src)[^;]*", policy)
    assert found is not None, policy
    return found[0]


@pytest.mark.parametrize("version", ["1", "6", "10", "11", "12"])
def test_a_redaction_is_whole_and_asks_for_power(arrive: Arrive, version: str) -> None:
    """CVE-2024-6302 and Synapse 1.3: struck in every answer, for everybody, and only by who may."""
    host, member, other = arrive("host"), arrive("member"), arrive("other")
    room = host.creates(preset="public_chat", room_version=version)
    member.joins(room)
    other.joins(room)
    secret = "hunter2"
    event = member.says(room, secret)
    topic = host.sets(room, "m.room.topic", {"topic": secret}).body["event_id"]
    other.redacts(room, event)
    assert other.event(room, event).body["content"]["body"] == secret, "nobody strikes what is another's"
    assert member.redacts(room, event).status == 200
    assert host.redacts(room, topic).status == 200
    at = f"/rooms/{segment(room)}"
    for person in (host, member, other):
        for path in (
            f"{at}/event/{segment(event)}",
            f"{at}/context/{segment(event)}?limit=10",
            f"{at}/context/{segment(topic)}?limit=10",
            f"{at}/messages?dir=b&limit=50",
            f"{at}/messages?dir=f&limit=50",
            f"{at}/state",
            f"{at}/initialSync",
            f"{at}/state/m.room.topic",
            "/sync?full_state=true",
            "/initialSync?limit=50",
            "/publicRooms",
        ):
            assert secret not in person.call("GET", path).raw.decode(), path


@pytest.mark.parametrize("version", ["1", "10", "11", "12"])
def test_a_struck_creation_keeps_the_version(server: ServerProcess, arrive: Arrive, version: str) -> None:
    """Synapse 1.7: a room whose create event was redacted is still what it was, also for who comes later."""
    host, member = arrive("host"), arrive("member")
    room = host.creates(preset="public_chat", room_version=version)
    state = host.ok("GET", f"/rooms/{segment(room)}/state")
    create = next(event for event in state if event["type"] == "m.room.create")
    host.redacts(room, create["event_id"])
    member.joins(room)
    member.says(room, "still a room")
    summary = member.ok("GET", f"/room_summary/{segment(room)}")
    assert summary["room_version"] == version
    upgraded = host.ok("POST", f"/rooms/{segment(room)}/upgrade", {"new_version": "11"})
    assert upgraded["replacement_room"] != room


def test_redactions_in_a_circle(arrive: Arrive) -> None:
    """Synapse 1.2: redactions that redact each other, and themselves, are read without end of patience."""
    host = arrive("host")
    room = host.creates(room_version="11")
    event = host.says(room, "first")
    for _ in range(5):
        event = host.redacts(room, event).body["event_id"]
    first = host.redacts(room, event).body["event_id"]
    host.redacts(room, first)
    chunk = host.messages(room)
    assert chunk and host.event(room, first).status == 200
    assert host.syncs()["rooms"]["join"][room]


ODD_STATE: list[tuple[str, dict[str, Any]]] = [
    ("m.room.name", {"name": {"not": "a name"}}),
    ("m.room.avatar", {"url": 1}),
    ("m.room.encryption", {"algorithm": None}),
    ("m.room.topic", {"topic": ["x"] * 1000}),
    ("m.room.canonical_alias", {"alt_aliases": []}),
    ("m.room.create", {"creator": 1}),
    ("m.room.join_rules", {"join_rule": "knock_restricted", "allow": [None, 1, {"type": 2}]}),
    ("m.room.history_visibility", {"history_visibility": 7}),
]


@pytest.mark.parametrize(("kind", "content"), ODD_STATE, ids=[kind for kind, _ in ODD_STATE])
def test_a_bad_invite_breaks_no_sync(arrive: Arrive, kind: str, content: dict[str, Any]) -> None:
    """CVE-2024-52815: whatever the room is, who is asked in can read it, and all else, and decline."""
    host, guest = arrive("host"), arrive("guest")
    room, good = host.creates(), host.creates(preset="public_chat", name="good")
    host.sets(room, kind, content)
    host.sets(room, MEMBER, {"membership": "join", "displayname": {"x": 1}, "avatar_url": []}, host.user_id)
    guest.joins(good)
    invited = {"membership": "invite", "displayname": 5, "is_direct": "yes", "reason": {"x": []}}
    assert host.sets(room, MEMBER, invited, guest.user_id).status == 200 or (
        host.does(room, "invite", guest).status == 200
    )
    for told in (guest.syncs(), guest.syncs(full_state="true"), guest.ok("GET", "/initialSync")):
        assert room in json.dumps(told) and good in json.dumps(told)
    events = guest.syncs()["rooms"]["invite"][room]["invite_state"]["events"]
    assert all(set(event) == {"type", "state_key", "sender", "content"} for event in events)
    guest.leaves(room)
    assert room not in guest.syncs()["rooms"].get("invite", {})


@pytest.mark.parametrize("verb", ["leave", "kick", "ban"])
def test_sync_tells_nothing_of_a_room_one_is_no_longer_in(arrive: Arrive, verb: str) -> None:
    """CVE-2024-53867: no state, message, receipt, typing or profile of after the end, in any kind of sync."""
    host, former = arrive("host"), arrive("former")
    room = host.creates(preset="public_chat", name="Before")
    former.joins(room)
    since = former.syncs()["next_batch"]
    if verb == "leave":
        former.leaves(room)
    else:
        assert host.does(room, verb, former).status == 200
    secret = "of the time after"
    host.sets(room, "m.room.name", {"name": secret})
    message = host.says(room, secret)
    host.ok("POST", f"/rooms/{segment(room)}/receipt/m.read/{segment(message)}", {})
    host.ok(
        "PUT", f"/rooms/{segment(room)}/typing/{segment(host.user_id)}", {"typing": True, "timeout": 9000}
    )
    host.ok("PUT", f"/profile/{segment(host.user_id)}/displayname", {"displayname": secret})
    leaves = '{"room":{"include_leave":true,"timeline":{"limit":50}}}'
    synced = [
        former.syncs(since),
        former.syncs(since, full_state="true"),
        former.syncs(since, use_state_after="true"),
        former.syncs(filter=leaves),
        former.syncs(filter=leaves, full_state="true"),
        former.syncs(filter=leaves, use_state_after="true"),
        former.syncs(),
    ]
    assert all(room not in told["rooms"].get("join", {}) for told in synced)
    assert room in synced[0]["rooms"]["leave"] and room in synced[3]["rooms"]["leave"]
    read = [
        former.ok("GET", "/initialSync?archived=true&limit=50"),
        former.ok("GET", f"/rooms/{segment(room)}/messages?dir=b&limit=50"),
        former.ok("GET", f"/rooms/{segment(room)}/state"),
        former.ok("GET", f"/rooms/{segment(room)}/initialSync"),
    ]
    for told in (*synced, *read):
        assert secret not in json.dumps(told) and message not in json.dumps(told)
    later = former.syncs(since)["next_batch"]
    host.says(room, secret)
    assert room not in json.dumps(former.syncs(later))


def test_nobody_is_moved_without_consent(arrive: Arrive) -> None:
    """Synapse 1.5: nobody joins, knocks or leaves for another, by whichever endpoint."""
    host, victim = arrive("host"), arrive("victim")
    room = host.creates(preset="public_chat")
    for content in ({"membership": "join"}, {"membership": "knock"}):
        check_refusal(host.sets(room, MEMBER, content, victim.user_id), 403, "M_FORBIDDEN")
    assert host.sets(room, MEMBER, {"membership": "join"}, victim.user_id.upper()).status in {400, 403}
    assert host.sets(room, MEMBER, {"membership": "nonsense"}, victim.user_id).status in {400, 403}
    victim.joins(room)
    for path, body in (
        (f"/profile/{segment(victim.user_id)}/displayname", {"displayname": "X"}),
        (f"/user/{segment(victim.user_id)}/account_data/org.example.x", {}),
        (f"/presence/{segment(victim.user_id)}/status", {"presence": "offline"}),
    ):
        check_refusal(host.call("PUT", path, body), 403, "M_FORBIDDEN")
    for path in (
        f"/user/{segment(victim.user_id)}/account_data/m.direct",
        f"/devices/{victim.account.device_id}",
    ):
        assert host.call("GET", path).status in {403, 404}
    assert victim.user_id in host.ok("GET", f"/rooms/{segment(room)}/joined_members")["joined"]
