# SPDX-License-Identifier: Apache-2.0
"""Cross-signing keys and signatures on a real Postgres."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.errors import BadJson, InvalidSignature, MissingParam, UiaRequired
from homeserver.protocol.signing import sign_json
from storage.database import Database
from tests.devices.devices_fixture import Identity, Process
from tests.rooms.engine_fixture import ALICE, BOB

RIGHT = {"password": "right"}


async def _own(process: Process, user_id: str) -> Any:
    return await process.query(user_id, {user_id: ()}, 1)


async def test_only_other_keys_in_place_of_those_there_need_authentication(database: Database) -> None:
    """The first upload needs none, nor the same again, with or without all of them. (MSC3967)"""
    process = await Process.open(database)
    await process.log_in(ALICE, "PHONE")
    first, second = Identity(ALICE), Identity(ALICE, "2")
    upload = process.devices.cross_signing.upload
    await upload(ALICE, first.keys(), None)
    await upload(ALICE, first.keys(), None)
    await upload(ALICE, first.keys("master", "self_signing"), None)
    assert process.reauthentication.asked == []
    with pytest.raises(UiaRequired):
        await upload(ALICE, second.keys(), None)
    assert (await _own(process, ALICE)).master_keys[ALICE]["keys"] == first.keys()["master"]["keys"]  # type: ignore[index]
    await upload(ALICE, second.keys(), RIGHT)
    answer = await _own(process, ALICE)
    assert answer.self_signing_keys[ALICE] == second.keys()["self_signing"]
    assert len(set(process.reauthentication.asked)) == 1


async def test_adding_a_key_beside_the_master_key_needs_authentication(database: Database) -> None:
    process = await Process.open(database)
    await process.log_in(ALICE, "PHONE")
    identity, upload = Identity(ALICE), process.devices.cross_signing.upload
    await upload(ALICE, identity.keys("master"), None)
    with pytest.raises(UiaRequired):
        await upload(ALICE, identity.keys("self_signing"), None)
    await upload(ALICE, identity.keys("self_signing"), RIGHT)
    assert set((await _own(process, ALICE)).self_signing_keys) == {ALICE}


async def test_keys_must_be_signed_by_the_master_key(database: Database) -> None:
    process = await Process.open(database)
    await process.log_in(ALICE, "PHONE")
    one, other = Identity(ALICE), Identity(ALICE, "2")
    upload = process.devices.cross_signing.upload
    with pytest.raises(MissingParam):
        await upload(ALICE, one.keys("self_signing"), None)
    for usage in ("self_signing", "user_signing"):
        with pytest.raises(InvalidSignature):
            await upload(ALICE, {"master": one.keys()["master"], usage: other.keys()[usage]}, None)
    assert (await _own(process, ALICE)).master_keys == {}


MASTER: Any = Identity(ALICE).keys()["master"]


@pytest.mark.parametrize(
    "key",
    [
        {},
        {**MASTER, "user_id": BOB},
        {**MASTER, "usage": ["self_signing"]},
        {**MASTER, "usage": "master"},
        {**MASTER, "keys": {}},
        {**MASTER, "keys": {"ed25519:a": "a"}},
        {**MASTER, "keys": {"ed25519:a": "b"}},
        {**MASTER, "keys": {**MASTER["keys"], "ed25519:b": "b"}},
        {**MASTER, "signatures": []},
        {**MASTER, "more": 1.5},
    ],
)
async def test_what_has_not_the_form_of_such_a_key(database: Database, key: object) -> None:
    process = await Process.open(database)
    await process.log_in(ALICE, "PHONE")
    with pytest.raises(BadJson):
        await process.devices.cross_signing.upload(ALICE, {"master": key}, None)


async def test_a_new_master_key_takes_what_the_old_one_signed_with_it(database: Database) -> None:
    process = await Process.open(database)
    phone = await process.log_in(ALICE, "PHONE")
    await process.upload(phone)
    old, new = Identity(ALICE), Identity(ALICE, "2")
    await process.devices.cross_signing.upload(ALICE, old.keys(), None)
    signed = old.signs(MASTER, "master")
    signature = sign_json(MASTER, ALICE, phone.signing_key)
    assert await process.devices.signatures.upload(ALICE, {ALICE: {old.public("master"): signature}}) == {}
    assert signed
    await process.devices.cross_signing.upload(ALICE, new.keys("master"), RIGHT)
    answer = await _own(process, ALICE)
    assert answer.self_signing_keys == {} and answer.user_signing_keys == {}
    assert answer.master_keys[ALICE] == new.keys("master")["master"]


async def test_devices_and_master_keys_are_signed(database: Database) -> None:
    """By the self-signing key and by devices, whose signatures everybody sees; the owner's list has changed."""
    process = await Process.open(database)
    phone, identity = await process.log_in(ALICE, "PHONE"), Identity(ALICE)
    await process.upload(phone)
    await process.devices.cross_signing.upload(ALICE, identity.keys(), None)
    since = process.position
    failures = await process.devices.signatures.upload(
        ALICE,
        {
            ALICE: {
                "PHONE": identity.signs(phone.keys(), "self_signing"),
                identity.public("master"): sign_json(MASTER, ALICE, phone.signing_key),
            }
        },
    )
    assert failures == {}
    assert await process.changed(ALICE, since) == ({ALICE}, set())
    answer = await process.query(BOB, {ALICE: ()}, 1)
    signatures = answer.device_keys[ALICE]["PHONE"]["signatures"]
    assert set(signatures[ALICE]) == {"ed25519:PHONE", identity.key("self_signing").key_id}
    assert set(answer.master_keys[ALICE]["signatures"][ALICE]) == {"ed25519:PHONE"}
    await process.upload(phone, device_keys=phone.keys(algorithms=["other"]))
    answer = await process.query(BOB, {ALICE: ()}, 1)
    assert set(answer.device_keys[ALICE]["PHONE"]["signatures"][ALICE]) == {"ed25519:PHONE"}


async def test_each_signature_that_does_not_hold_has_its_error(database: Database) -> None:
    """With a code and a text, and the others are taken."""
    process = await Process.open(database)
    phone, identity, bob = await process.log_in(ALICE, "PHONE"), Identity(ALICE), Identity(BOB)
    laptop = await process.log_in(ALICE, "LAPTOP")
    await process.log_in(BOB, "BOBS")
    await process.upload(phone)
    await process.upload(laptop)
    await process.devices.cross_signing.upload(ALICE, identity.keys(), None)
    await process.devices.cross_signing.upload(BOB, bob.keys(), None)
    wrong: Any = identity.signs(phone.keys(), "self_signing")
    wrong["signatures"][ALICE][identity.key("self_signing").key_id] = "A" * 86
    bobs: Any = bob.keys()["master"]
    failures = await process.devices.signatures.upload(
        ALICE,
        {
            ALICE: {
                "PHONE": wrong,
                "LAPTOP": identity.signs(laptop.keys(), "self_signing"),
                "GONE": identity.signs(laptop.keys(), "self_signing"),
                identity.public("master"): "no object",
            },
            BOB: {
                bob.public("master"): identity.signs(bobs, "self_signing"),
                "BOBS": identity.signs(bobs, "user_signing"),
                "other": {**bobs, "usage": []},
            },
            "@nobody:localhost": {"x": bobs},
        },
    )
    assert all(isinstance(error["error"], str) for errors in failures.values() for error in errors.values())
    codes = {
        user: {key: error["errcode"] for key, error in errors.items()} for user, errors in failures.items()
    }
    assert codes == {
        ALICE: {
            "PHONE": "M_INVALID_SIGNATURE",
            "GONE": "M_NOT_FOUND",
            identity.public("master"): "M_BAD_JSON",
        },
        BOB: {bob.public("master"): "M_INVALID_SIGNATURE", "BOBS": "M_NOT_FOUND", "other": "M_NOT_FOUND"},
        "@nobody:localhost": {"x": "M_NOT_FOUND"},
    }
    changed: Any = {**bobs, "usage": ["master", "more"]}
    failures = await process.devices.signatures.upload(
        ALICE, {BOB: {bob.public("master"): identity.signs(changed, "user_signing")}}
    )
    assert failures[BOB][bob.public("master")]["errcode"] == "M_INVALID_PARAM"


async def test_verifying_somebody_is_news_for_ones_own_devices_alone(database: Database) -> None:
    process, elsewhere = await Process.open(database), await Process.open(database)
    await process.log_in(ALICE, "PHONE")
    await process.log_in(BOB, "BOBS")
    alice, bob = Identity(ALICE), Identity(BOB)
    for identity in (alice, bob):
        await process.devices.cross_signing.upload(identity.user_id, identity.keys(), None)
    await process.reached(process.position)  # the other may have been the first to tell of the keys
    since = process.position
    bobs: Any = bob.keys()["master"]
    await process.devices.signatures.upload(
        ALICE, {BOB: {bob.public("master"): alice.signs(bobs, "user_signing")}}
    )
    await elsewhere.reached(process.position)
    for each in (process, elsewhere):
        assert await each.changed(ALICE, since) == ({BOB}, set())
        assert await each.changed(BOB, since) == (set(), set())
    later = await Process.open(database)
    assert await later.changed(ALICE, since) == ({BOB}, set())
