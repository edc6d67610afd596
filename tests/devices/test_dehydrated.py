# SPDX-License-Identifier: Apache-2.0
"""Dehydrated devices (MSC3814) on a real Postgres: one per user, with its keys and messages, for a later log-in."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.devices.dehydrated import Dehydration
from homeserver.devices.messages import digest
from homeserver.errors import BadJson, Forbidden, InvalidParam, InvalidSignature, NotFound, TooLarge
from storage.database import Database
from storage.devices import DeviceStore
from tests.devices.devices_fixture import Device, Identity, Process
from tests.rooms.engine_fixture import ALICE, BOB


def _dehydration(
    device_id: str, pickle: str = "x", *, signer: str | None = None, **other: Any
) -> Dehydration:
    device = Device(ALICE, signer or device_id)
    wanted: dict[str, Any] = {
        "device_id": device_id,
        "device_data": {"algorithm": "a", "device_pickle": pickle},
        "display_name": "Dehydrated",
        "device_keys": device.keys(dehydrated=True),
        "one_time_keys": device.one_time_keys(3),
        "fallback_keys": {},
        **other,
    }
    return Dehydration(**wanted)


async def _send(process: Process, device_id: str, *numbers: int) -> None:
    for n in numbers:
        to: Any = {ALICE: {device_id: {"n": n}}}
        await process.devices.to_device.send(BOB, "m.test", to, digest(f"{device_id} {n}"))


async def _messages(process: Process, device_id: str) -> int:
    waiting = await process.devices.dehydrated.messages(ALICE, device_id, 0, process.position)
    return len(waiting.messages)


async def test_a_device_is_kept_and_sent_messages(database: Database) -> None:
    """Others are told of it, and claim its keys; uploading it again changes nothing."""
    process = await Process.open(database)
    await process.log_in(ALICE, "PHONE")
    since = process.position
    for _ in range(2):
        await process.devices.dehydrated.put(ALICE, _dehydration("SLEEPER"))
        await _send(process, "SLEEPER", 1)
    assert await process.changed(ALICE, since) == ({ALICE}, set())
    kept = await process.devices.dehydrated.get(ALICE)
    assert kept == ("SLEEPER", '{"algorithm":"a","device_pickle":"x"}')
    keys = (await process.query(BOB, {ALICE: ()}, 1)).device_keys[ALICE]
    assert keys["SLEEPER"]["dehydrated"] is True
    assert keys["SLEEPER"]["unsigned"] == {"device_display_name": "Dehydrated"}
    claimed = await process.claim({ALICE: {"SLEEPER": "signed_curve25519"}})
    assert claimed.one_time_keys[ALICE]["SLEEPER"]
    for _ in range(2):  # reading deletes nothing
        assert await _messages(process, "SLEEPER") == 1


async def test_another_takes_its_place(database: Database) -> None:
    """With its keys and messages; also one of the same name but another content."""
    process = await Process.open(database)
    await process.log_in(ALICE, "PHONE")
    dehydrated = process.devices.dehydrated
    await dehydrated.put(ALICE, _dehydration("ONE"))
    await _send(process, "ONE", 1, 2)
    await dehydrated.put(ALICE, _dehydration("TWO"))
    keys = (await process.query(BOB, {ALICE: ()}, 1)).device_keys[ALICE]
    assert set(keys) == {"TWO"}
    with pytest.raises(Forbidden):
        await dehydrated.messages(ALICE, "ONE", 0, process.position)
    await _send(process, "TWO", 3)
    await dehydrated.put(ALICE, _dehydration("TWO", pickle="y"))
    assert await _messages(process, "TWO") == 0
    assert await dehydrated.delete(ALICE) == "TWO"
    for gone in (dehydrated.delete(ALICE), dehydrated.get(ALICE), dehydrated.messages(ALICE, "TWO", 0, 1)):
        with pytest.raises(NotFound):
            await gone


async def test_what_cannot_be_kept(database: Database) -> None:
    """Then nothing is, and what was there stays."""
    process = await Process.open(database)
    await process.upload(await process.log_in(ALICE, "PHONE"))
    await process.devices.dehydrated.put(ALICE, _dehydration("SLEEPER"))
    forged = {**Device(ALICE, "OTHER").keys(), "algorithms": ["changed"]}
    for wanted, error in (
        (_dehydration("PHONE"), InvalidParam),
        (_dehydration("a" * 513, signer="A"), InvalidParam),
        (_dehydration("a\0", signer="A"), InvalidParam),
        (_dehydration("OTHER", signer="PHONE"), BadJson),
        (_dehydration("OTHER", device_keys=forged), InvalidSignature),
        (_dehydration("OTHER", device_data={}), BadJson),
        (_dehydration("OTHER", pickle="x" * 262_144), TooLarge),
    ):
        with pytest.raises(error):
            await process.devices.dehydrated.put(ALICE, wanted)
    assert (await process.devices.dehydrated.get(ALICE)).device_id == "SLEEPER"
    keys = (await process.query(BOB, {ALICE: ()}, 1)).device_keys[ALICE]
    assert set(keys) == {"PHONE", "SLEEPER"}


async def test_it_goes_with_the_identity_and_not_with_the_last_log_out(database: Database) -> None:
    """Logging out everywhere leaves it; a new master key cannot open it, so it goes."""
    process = await Process.open(database)
    await process.log_in(ALICE, "PHONE")
    old, new = Identity(ALICE), Identity(ALICE, "2")
    await process.devices.cross_signing.upload(ALICE, old.keys(), None)
    await process.devices.dehydrated.put(ALICE, _dehydration("SLEEPER"))
    devices = DeviceStore(database)
    assert list(await devices.delete_others(ALICE, None)) == ["PHONE"]
    assert (await process.devices.dehydrated.get(ALICE)).device_id == "SLEEPER"
    await process.log_in(ALICE, "NEW")
    since = process.position
    await process.devices.cross_signing.upload(ALICE, new.keys(), {"password": "right"})
    with pytest.raises(NotFound):
        await process.devices.dehydrated.get(ALICE)
    assert [device.device_id for device in await devices.list(ALICE)] == ["NEW"]
    assert await process.changed(ALICE, since) == ({ALICE}, set())
    await process.devices.dehydrated.put(ALICE, _dehydration("SLEEPER"))
    await devices.delete(ALICE, ["SLEEPER"])
    with pytest.raises(NotFound):
        await process.devices.dehydrated.get(ALICE)
