# SPDX-License-Identifier: Apache-2.0
"""A server process and a LiveKit: somebody joins a group call, vanishes, and is no longer shown in it."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

from homeserver.calls.rtc.naming import legacy_identity, livekit_room
from tests.calls.rtc.call_site import KEY, SECRET, SLOT, URL, FakeLiveKit
from tests.reactor import reactor, run
from tests.serving import Account, ServerProcess, serving
from tests.web.loopback import Answer, Connection

V3, UNSTABLE = "/_matrix/client/v3", "/_matrix/client/unstable"
MEMBER = "org.matrix.msc3401.call.member"


@pytest.fixture
def livekit() -> Iterator[FakeLiveKit]:
    """Answers only while the test's own reactor turns."""
    livekit = FakeLiveKit()
    yield livekit
    run(livekit.server.stop())


async def ask(
    server: ServerProcess,
    method: str,
    path: str,
    body: object = None,
    *,
    token: str | None = None,
    **headers: str,
) -> Answer:
    """A request that lets LiveKit answer meanwhile."""
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", server.port)
    connection: Connection = await connectProtocol(endpoint, Connection())  # type: ignore[no-untyped-call]
    try:
        raw = None if body is None else json.dumps(body).encode()
        answer = await connection.request(method, path, body=raw, token=token, headers=headers)
    finally:
        connection.drop()
    assert answer.status == 200, answer.raw
    return answer


async def joined_call(server: ServerProcess, alice: Account, room_id: str) -> dict[str, Any]:
    """What the room's state says of alice's part in the call."""
    path = f"{V3}/rooms/{quote(room_id)}/state/{MEMBER}/{quote(f'_{alice.user_id}_DEV_m.call')}"
    content: dict[str, Any] = (await ask(server, "GET", path, token=alice.access_token)).json
    return content


@pytest.mark.reactor_timeout(240)
async def test_who_vanishes_leaves_the_call(tmp_path: Path, livekit: FakeLiveKit) -> None:
    """By the event that her client had scheduled in an hour, as soon as LiveKit tells."""
    settings = {
        "rtc": {
            "livekit_url": URL,
            "livekit_api_url": f"http://127.0.0.1:{livekit.server.port}",
            "api_key": KEY,
            "api_secret": SECRET,
        },
        "federation": {"enabled": False},
    }
    with serving(tmp_path, settings=settings) as server:
        alice = server.register("alice")
        token = alice.access_token
        made = await ask(server, "POST", f"{V3}/createRoom", {}, token=token)
        room_id: str = made.json["room_id"]
        member = f"{V3}/rooms/{quote(room_id)}/state/{MEMBER}/{quote(f'_{alice.user_id}_DEV_m.call')}"
        await ask(server, "PUT", member, {"application": "m.call"}, token=token)
        delayed = await ask(server, "PUT", f"{member}?org.matrix.msc4140.delay=3600000", {}, token=token)
        proof = await ask(
            server, "POST", f"{V3}/user/{quote(alice.user_id)}/openid/request_token", {}, token=token
        )
        asked = {
            "room": room_id,
            "openid_token": proof.json,
            "device_id": "DEV",
            "delay_id": delayed.json["delay_id"],
            "delay_timeout": 3_600_000,
        }
        ticket = await ask(server, "POST", f"{UNSTABLE}/org.lares.livekit/sfu/get", asked)
        room, identity = livekit_room(room_id, SLOT), legacy_identity(alice.user_id, "DEV")
        assert jwt.decode(ticket.json["jwt"], SECRET, algorithms=["HS256"], issuer=KEY)["sub"] == identity
        assert list(livekit.rooms) == [room]

        livekit.participants.add((room, identity))
        await tell(server, "participant_joined", room, identity)
        assert await joined_call(server, alice, room_id) == {"application": "m.call"}
        livekit.participants.clear()
        await tell(server, "participant_left", room, identity)
        since, seen = "", False
        while not seen:
            query = f"timeout=20000&since={quote(since)}" if since else "timeout=0"
            news = (await ask(server, "GET", f"{V3}/sync?{query}", token=token)).json
            since = news["next_batch"]
            seen = await joined_call(server, alice, room_id) == {}


async def tell(server: ServerProcess, event: str, room: str, identity: str) -> None:
    """A webhook of LiveKit."""
    raw = {"event": event, "room": {"name": room}, "participant": {"identity": identity}}
    digest = base64.b64encode(hashlib.sha256(json.dumps(raw).encode()).digest()).decode()
    signed = jwt.encode({"iss": KEY, "exp": time.time() + 60, "sha256": digest}, SECRET, algorithm="HS256")
    await ask(server, "POST", f"{UNSTABLE}/org.lares.livekit/sfu_webhook", raw, Authorization=signed)
