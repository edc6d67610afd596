# SPDX-License-Identifier: Apache-2.0
"""What goes when an account is closed, and what of others' stays."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.devices.departure import KeyDeparture
from homeserver.errors import NotFound
from storage.cross_signing import CrossSigningStore
from storage.database import Database
from storage.key_backups import KeyBackupStore
from tests.devices.devices_fixture import Identity, Process
from tests.rooms.engine_fixture import ALICE, BOB


async def test_identity_and_backups_go_with_the_account(database: Database) -> None:
    """And the signatures the user made; those of others on their own keys stay. It may be said twice."""
    process = await Process.open(database)
    devices = process.devices
    for user, device in ((ALICE, "PHONE"), (BOB, "BOBS")):
        await process.upload(await process.log_in(user, device))
    alice, bob = Identity(ALICE), Identity(BOB)
    for identity in (alice, bob):
        await devices.cross_signing.upload(identity.user_id, identity.keys(), None)
        await devices.backups.create(identity.user_id, "a", {})
    bobs: Any = bob.keys()["master"]
    await devices.signatures.upload(ALICE, {BOB: {bob.public("master"): alice.signs(bobs, "user_signing")}})
    departure = KeyDeparture(
        database=database,
        cross_signing=CrossSigningStore(database),
        backups=KeyBackupStore(database),
        lists=devices.lists,
    )
    since = process.position
    for _ in range(2):
        await departure.depart(ALICE, erase=False)
    assert await process.changed(ALICE, since) == ({ALICE}, set())
    answer = await process.query(ALICE, {ALICE: (), BOB: ()}, 1)
    assert set(answer.master_keys) == {BOB} and set(answer.self_signing_keys) == {BOB}
    assert ALICE not in answer.master_keys[BOB].get("signatures", {})
    with pytest.raises(NotFound):
        await devices.backups.get(ALICE)
    assert (await devices.backups.get(BOB)).version == 1
