# SPDX-License-Identifier: Apache-2.0
"""What other servers ask about our devices, over real HTTP with their signatures."""

from __future__ import annotations

from typing import Any

from federation.serving.devices import DeviceServing
from storage.database import Database
from tests.devices.devices_fixture import Identity, Process
from tests.federation.keys.world import World
from tests.federation.servers import RemoteServer
from tests.federation.site import FederationSite
from tests.rooms.engine_fixture import ALICE

BASE = "/_matrix/federation/v1/user/"


async def test_another_server_asks_for_devices_and_keys(database: Database) -> None:
    """And is told what anybody may see of our users, and nothing of others."""
    process, theirs = await Process.open(database), RemoteServer("theirs.test")
    phone, identity = await process.log_in(ALICE, "PHONE", "Phone"), Identity(ALICE)
    await process.upload(phone, 1)
    await process.devices.cross_signing.upload(ALICE, identity.keys(), None)
    serving = DeviceServing(
        server_name="localhost", stored=process.devices.stored_keys, claim=process.devices.claim
    )
    site = FederationSite(World(database, theirs), tuple(serving.routes()))

    async def asks(method: str, target: str, content: Any = None) -> tuple[int, Any]:
        answer = await site.signed(theirs, method, BASE + target, content)
        return answer.status, answer.json

    keys = identity.keys()
    assert await asks("GET", "devices/%40alice%3Alocalhost") == (
        200,
        {
            "user_id": ALICE,
            "stream_id": 1,
            "devices": [{"device_id": "PHONE", "keys": phone.keys(), "device_display_name": "Phone"}],
            "master_key": keys["master"],
            "self_signing_key": keys["self_signing"],
        },
    )
    nobody = {"user_id": "@nobody:localhost", "stream_id": 0, "devices": []}
    assert await asks("GET", "devices/%40nobody%3Alocalhost") == (200, nobody)
    assert (await asks("GET", "devices/%40x%3Aelsewhere"))[0] == 404
    assert (await asks("GET", "devices/alice"))[0] == 400
    wanted: dict[str, Any] = {ALICE: [], "@x:elsewhere": []}
    status, answer = await asks("POST", "keys/query", {"device_keys": wanted})
    assert status == 200 and set(answer) == {"device_keys", "master_keys", "self_signing_keys"}
    assert set(answer["device_keys"]) == {ALICE} and set(answer["device_keys"][ALICE]) == {"PHONE"}
    claim = {"one_time_keys": {ALICE: {"PHONE": "signed_curve25519"}, "@x:elsewhere": {"X": "a"}}}
    name = "signed_curve25519:000000"
    key = phone.one_time_keys(1)[name]
    assert await asks("POST", "keys/claim", claim) == (
        200,
        {"one_time_keys": {ALICE: {"PHONE": {name: key}}}},
    )
    assert await asks("POST", "keys/claim", claim) == (200, {"one_time_keys": {}})
    for target, content in (
        ("keys/query", {"device_keys": []}),
        ("keys/claim", {"one_time_keys": {ALICE: []}}),
    ):
        assert (await asks("POST", target, content))[0] == 400
    await site.stop()
