# SPDX-License-Identifier: Apache-2.0
"""Requests about many devices: as many queries as for one, and every key as its owner made it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from homeserver.devices.messages import digest
from storage.database import Database
from tests.devices.devices_fixture import Identity, Process, statements
from tests.rooms.engine_fixture import ALICE, BOB, CAROL

_PEOPLE = """
WITH people AS (SELECT n, '@u' || n || ':localhost' AS user_id FROM generate_series(1, 500) AS n),
    users AS (INSERT INTO users (user_id, created_ts) SELECT user_id, 0 FROM people),
    devices AS (INSERT INTO devices (user_id, device_id, created_ts)
        SELECT user_id, 'D' || d, 0 FROM people, generate_series(1, 1 + n % 2) AS d RETURNING user_id, device_id),
    keys AS (INSERT INTO device_keys (user_id, device_id, keys)
        SELECT user_id, device_id, json_build_object('device_id', device_id) FROM devices),
    one_time AS (INSERT INTO one_time_keys (user_id, device_id, algorithm, key_id, upload, key)
        SELECT user_id, device_id, 'signed_curve25519', 'k', 1, '{"key":"x"}' FROM devices)
INSERT INTO cross_signing_keys (user_id, usage, public_key, key)
SELECT user_id, usage, usage, json_build_object('usage', json_build_array(usage))
FROM people, unnest(ARRAY['master', 'self_signing', 'user_signing']) AS usage
"""


@asynccontextmanager
async def _sent(database: Database, *expected: str) -> AsyncIterator[None]:
    """Exactly these statements are sent meanwhile."""
    before = Counter(statements(database))
    yield
    assert Counter(statements(database)) - before == Counter(expected)


async def _crowd(database: Database) -> Process:
    """A process that begins after all of them were made, and so hears nothing of it."""
    await database.execute("people", _PEOPLE)
    await database.execute("settled", "DELETE FROM device_list_dues")
    return await Process.open(database)


async def test_keys_of_five_hundred_users_are_one_query(database: Database) -> None:
    process = await _crowd(database)
    wanted = {f"@u{n}:localhost": () for n in range(1, 501)}
    async with _sent(database, "shown_keys"):
        answer = await process.query("@u7:localhost", wanted)
    assert sum(map(len, answer.device_keys.values())) == 750
    assert len(answer.master_keys) == len(answer.self_signing_keys) == 500
    assert list(answer.user_signing_keys) == ["@u7:localhost"]
    assert answer.device_keys["@u2:localhost"] == {"D1": {"device_id": "D1", "unsigned": {}}}


async def test_claiming_from_a_hundred_devices_is_one_statement(database: Database) -> None:
    process = await _crowd(database)
    wanted = {f"@u{n}:localhost": {"D1": "signed_curve25519"} for n in range(1, 101)}
    async with _sent(database, "one_time_keys_claim"):
        answer = await process.claim(wanted)
    assert set(answer.one_time_keys) == set(wanted)
    assert answer.one_time_keys["@u1:localhost"] == {"D1": {"signed_curve25519:k": {"key": "x"}}}
    assert (await process.claim(wanted)).one_time_keys == {}


async def test_a_message_to_two_hundred_devices_is_a_commit_and_a_query_where_it_arrives(
    database: Database,
) -> None:
    process = await _crowd(database)
    position = process.position
    contents = {f"@u{n}:localhost": {"D1": {"n": n}} for n in range(1, 201)}
    async with _sent(database, "stream_commit"):
        await process.devices.to_device.send(ALICE, "m.test", contents, digest("t"))
    assert process.position == position + 1
    for n in (1, 200):
        to_device = process.devices.to_device
        user_id, since = f"@u{n}:localhost", process.position
        async with _sent(database, "to_device_waiting"):
            waiting = await to_device.waiting(user_id, "D1", position, process.position)
        assert [orjson.loads(message)["content"] for message in waiting.messages] == [{"n": n}]
        async with _sent(database, "to_device_delete"):
            await to_device.acknowledge(user_id, "D1", since)
            assert (await to_device.waiting(user_id, "D1", since, process.position)).messages == ()


async def test_another_process_hears_of_many(database: Database) -> None:
    """However long their names are: what one notification cannot hold, several do."""
    process = await Process.open(database)
    other = await Process.open(database)
    people = [f"@{'long' * 60}{n}:localhost" for n in range(60)]
    for user_id in people:
        device = await process.log_in(user_id, "D1")
        await process.upload(device, 1)
    await other.reached(process.position)
    since = other.position
    contents: dict[str, dict[str, dict[str, Any]]] = {user_id: {"D1": {}} for user_id in people}
    await process.devices.to_device.send(ALICE, "m.test", contents, digest("t"))
    await process.claim({user_id: {"D1": "signed_curve25519"} for user_id in people})
    await other.reached(process.position)
    for user_id in people:
        assert other.devices.counts.may_have_moved(user_id, "D1", since)
        async with _sent(database, "to_device_waiting"):
            assert (await other.devices.to_device.waiting(user_id, "D1", since, other.position)).messages


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"a": {"signatures": {ALICE: {"ed25519:X": "no"}}}},
        {'x"signatures': {}, "signatures ": [], "n": '"signatures":{'},
        {"z": 'a\\"ü', "unsigned ": None},
        {"m": {'"signatures"': {}}},
    ],
)
async def test_signatures_go_where_they_belong(database: Database, odd: dict[str, Any]) -> None:
    """Whatever else a client puts into its keys, and however the device is called."""
    process = await Process.open(database)
    phone = await process.log_in(ALICE, "PHONE", 'Alice\'s "phone" \\ ü')
    plain = await process.log_in(ALICE, "PLAIN")
    identity, keys = Identity(ALICE), phone.keys(**odd)
    await process.devices.cross_signing.upload(ALICE, identity.keys(), None)
    await process.upload(phone, device_keys=keys)
    await process.upload(plain)
    signed = identity.signs(keys, "self_signing")
    assert await process.devices.signatures.upload(ALICE, {ALICE: {"PHONE": signed}}) == {}
    shown = (await process.query(BOB, {ALICE: ()})).device_keys[ALICE]
    assert shown == {
        "PHONE": {
            **keys,
            "signatures": {ALICE: {**keys["signatures"][ALICE], **signed["signatures"][ALICE]}},
            "unsigned": {"device_display_name": 'Alice\'s "phone" \\ ü'},
        },
        "PLAIN": {**plain.keys(), "unsigned": {}},
    }
    assert (await process.query(CAROL, {ALICE: ["PLAIN", "NONE"]})).device_keys[ALICE] == {
        "PLAIN": shown["PLAIN"]
    }


async def test_a_device_that_was_signed_before_its_upload_has_that_signature_once(database: Database) -> None:
    process = await Process.open(database)
    phone, identity = await process.log_in(ALICE, "PHONE"), Identity(ALICE)
    await process.devices.cross_signing.upload(ALICE, identity.keys(), None)
    keys = phone.keys()
    both = {**keys, "signatures": {ALICE: {**keys["signatures"][ALICE]}}}
    both["signatures"][ALICE].update(identity.signs(keys, "self_signing")["signatures"][ALICE])
    await process.upload(phone, device_keys=both)
    await process.devices.signatures.upload(ALICE, {ALICE: {"PHONE": identity.signs(keys, "self_signing")}})
    raw = (await process.devices.query.query(BOB, {ALICE: ()}, 1)).device_keys[ALICE]
    assert orjson.dumps(raw).count(identity.public("self_signing").encode()) == 1
    assert orjson.loads(orjson.dumps(raw))["PHONE"]["signatures"] == both["signatures"]
