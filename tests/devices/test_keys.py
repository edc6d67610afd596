# SPDX-License-Identifier: Apache-2.0
"""Uploading, querying and claiming keys on a real Postgres."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from homeserver.devices import uploading
from homeserver.errors import BadJson, Forbidden, InvalidParam, InvalidSignature, TooLarge
from storage.database import Database, Transaction
from storage.one_time_keys import OneTimeKey, OneTimeKeyStore
from tests.devices.devices_fixture import Device, Identity, Process
from tests.reactor import reactor
from tests.rooms.engine_fixture import ALICE, BOB

ALGORITHM = "signed_curve25519"


async def test_keys_are_handed_on_as_they_were_signed(database: Database) -> None:
    """With the device's name in `unsigned`, and nothing of what the client put there."""
    process = await Process.open(database)
    phone = await process.log_in(ALICE, "PHONE", "My phone")
    keys = phone.keys(dehydrated=True)
    await process.upload(phone, device_keys={**keys, "unsigned": {"forged": 1}})
    await process.log_in(ALICE, "NOKEYS")
    answer = await process.query(BOB, {ALICE: (), BOB: ()}, 1)
    shown = {**keys, "unsigned": {"device_display_name": "My phone"}}
    assert answer.device_keys == {ALICE: {"PHONE": shown}, BOB: {}}
    assert (await process.query(BOB, {ALICE: ["OTHER"]}, 1)).device_keys == {ALICE: {}}


def _without(keys: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if key != name}


PHONE = Device(ALICE, "PHONE")
SIGNED = PHONE.keys()


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"user_id": ALICE, "device_id": "PHONE"},
        Device(BOB, "PHONE").keys(),
        Device(ALICE, "OTHER").keys(),
        _without(SIGNED, "algorithms"),
        _without(SIGNED, "keys"),
        _without(SIGNED, "signatures"),
        PHONE.keys(algorithms="m.olm.v1.curve25519-aes-sha2"),
        PHONE.keys(algorithms=[1]),
        PHONE.keys(keys={}),
        PHONE.keys(keys=[]),
        PHONE.keys(keys={"ed25519:PHONE": 1}),
        PHONE.keys(keys={"ed25519:OTHER": "a"}),
        PHONE.keys(keys={"ed25519:PHONE": "short"}),
        PHONE.keys(keys={"curve25519:PHONE": "c" * 43}),
        {**SIGNED, "signatures": {ALICE: {"ed25519:PHONE": 1}}},
        {**SIGNED, "signatures": {ALICE: "no"}},
        {**SIGNED, "signatures": {ALICE: {}}},
        {**SIGNED, "more": 1.5},
        {**SIGNED, "more": "a\0b"},
        {**SIGNED, "more": "x" * 70_000},
    ],
)
async def test_advisory_28_what_has_not_the_form_of_keys_is_never_stored(
    database: Database, keys: dict[str, Any]
) -> None:
    """Other servers are sent device keys as they are: one that they refuse would stop everything to them."""
    process = await Process.open(database)
    phone = await process.log_in(ALICE, "PHONE")
    with pytest.raises((BadJson, InvalidSignature)):
        await process.upload(phone, device_keys=keys)
    assert (await process.query(BOB, {ALICE: ()}, 1)).device_keys == {ALICE: {}}


async def test_keys_must_be_signed_by_the_device(database: Database) -> None:
    process = await Process.open(database)
    phone = await process.log_in(ALICE, "PHONE")
    forged = {**phone.keys(), "algorithms": ["m.other"]}
    with pytest.raises(InvalidSignature):
        await process.upload(phone, device_keys=forged)


@pytest.mark.parametrize(
    "keys",
    [
        {"signed_curve25519": {"key": "a", "signatures": {}}},
        {":AAAA": "a"},
        {"curve25519:": "a"},
        {"signed_curve25519:AAAA": "a"},
        {"signed_curve25519:AAAA": {"key": "a"}},
        {"signed_curve25519:AAAA": {"signatures": {}}},
        {"signed_curve25519:AAAA": {"key": 1, "signatures": {}}},
        {"signed_curve25519:AAAA": {"key": "a", "signatures": []}},
        {"signed_curve25519:AAAA": {"key": "a", "signatures": {}, "more": 0.5}},
        {"signed_curve25519:AAAA": None},
        {"curve25519:" + "A" * 300: "a"},
        {"curve25519:AAAA": "x" * 70_000},
    ],
)
async def test_what_has_not_the_form_of_one_time_keys(database: Database, keys: dict[str, Any]) -> None:
    process = await Process.open(database)
    phone = await process.log_in(ALICE, "PHONE")
    for kind in ("one_time_keys", "fallback_keys"):
        with pytest.raises(BadJson):
            await process.upload(phone, 0, **{kind: keys})
    assert await process.upload(phone) == {}


async def test_the_same_one_time_key_may_come_again_but_no_other_under_its_name(database: Database) -> None:
    """A repeated upload changes nothing, also once the key was given out: it is not given out twice."""
    process = await Process.open(database)
    phone = await process.log_in(ALICE, "PHONE")
    assert await process.upload(phone, 3) == {ALGORITHM: 3}
    assert await process.upload(phone, 3) == {ALGORITHM: 3}
    with pytest.raises(InvalidParam):
        await process.upload(phone, one_time_keys=phone.one_time_keys(1, more="x"))
    first = await process.claim({ALICE: {"PHONE": ALGORITHM}}, 1)
    assert await process.upload(phone, 3) == {ALGORITHM: 2}
    seen = [first.one_time_keys]
    for _ in range(2):
        seen.append((await process.claim({ALICE: {"PHONE": ALGORITHM}}, 1)).one_time_keys)
    names = [name for answer in seen for name in answer[ALICE]["PHONE"]]
    assert names == [f"{ALGORITHM}:{n:06}" for n in range(3)]
    assert (await process.claim({ALICE: {"PHONE": ALGORITHM}}, 1)).one_time_keys == {}


async def test_keys_are_bounded_per_device(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "MOST_ONE_TIME_KEYS", 5)
    monkeypatch.setattr(uploading, "MOST_FALLBACK_ALGORITHMS", 2)
    process = await Process.open(database)
    phone = await process.log_in(ALICE, "PHONE")
    await process.upload(phone, 5)
    for more in (phone.one_time_keys(1, first=5), phone.one_time_keys(6, first=5)):
        with pytest.raises(TooLarge):
            await process.upload(phone, one_time_keys=more)
    await process.upload(phone, fallback_keys={"a:1": "x", "b:1": "x"})
    await process.upload(phone, fallback_keys={"a:2": "x"})
    with pytest.raises(TooLarge):
        await process.upload(phone, fallback_keys={"c:1": "x"})
    with pytest.raises(InvalidParam):
        await process.upload(phone, fallback_keys={"a:1": "x", "a:2": "x"})


async def test_when_one_time_keys_run_out_the_fallback_key_is_given_out_and_marked(
    database: Database,
) -> None:
    process = await Process.open(database)
    phone = await process.log_in(ALICE, "PHONE")
    await process.upload(
        phone, 1, fallback_keys={f"{ALGORITHM}:fall": phone.one_time_keys(1)[f"{ALGORITHM}:000000"]}
    )
    counts = process.devices.counts
    assert (await counts.of(ALICE, "PHONE")).unused_fallback == [ALGORITHM]
    wanted = {ALICE: {"PHONE": ALGORITHM, "GONE": ALGORITHM}, BOB: {"X": "none"}}
    given = [(await process.claim(wanted, 1)).one_time_keys for _ in range(3)]
    assert [list(each[ALICE]["PHONE"]) for each in given] == [
        [f"{ALGORITHM}:000000"],
        [f"{ALGORITHM}:fall"],
        [f"{ALGORITHM}:fall"],
    ]
    assert all(set(each) == {ALICE} and set(each[ALICE]) == {"PHONE"} for each in given)
    left = await counts.of(ALICE, "PHONE")
    assert (left.one_time, left.unused_fallback) == ({}, [])
    await process.upload(
        phone, fallback_keys={f"{ALGORITHM}:new": phone.one_time_keys(1)[f"{ALGORITHM}:000000"]}
    )
    assert (await counts.of(ALICE, "PHONE")).unused_fallback == [ALGORITHM]


async def test_a_claim_tells_whose_keys_became_fewer(database: Database) -> None:
    """A fallback key becomes no fewer, and is used once."""
    process = await Process.open(database)
    phone, laptop = await process.log_in(ALICE, "PHONE"), await process.log_in(BOB, "LAPTOP")
    await process.upload(phone, 2)
    fallback = laptop.one_time_keys(1)[f"{ALGORITHM}:000000"]
    await process.upload(laptop, fallback_keys={f"{ALGORITHM}:fall": fallback})
    wanted = {ALICE: {"PHONE": ALGORITHM}, BOB: {"LAPTOP": ALGORITHM}}
    store, position = OneTimeKeyStore(database), process.position
    claims = [await store.claim("test", wanted) for _ in range(3)]
    moved = [set(claim.moved) for claim in claims]
    assert [claim.before for claim in claims] == [position, position + 1, 0]  # a claim in vain takes none
    assert moved == [{(ALICE, "PHONE"), (BOB, "LAPTOP")}, {(ALICE, "PHONE")}, set()]


async def test_a_claim_and_its_news_are_one_commit(database: Database) -> None:
    """Whoever sees that a key is gone sees the position at which its owner is told."""
    process, other = await Process.open(database), await Process.open(database)
    phone = await process.log_in(ALICE, "PHONE")
    await process.upload(phone, 1)
    for each in (process, other):
        await each.reached(process.position)
    since = process.position
    listener = process.engine.stream.listen(ALICE)
    woken = listener.wait()
    assert (await process.claim({ALICE: {"PHONE": ALGORITHM}}, 1)).one_time_keys
    assert woken.called
    await process.moved_on(since)  # at once, but for a commit of something else that is on its way
    await other.reached(process.position)
    for each in (process, other):
        assert each.devices.counts.may_have_moved(ALICE, "PHONE", since)
        assert (await each.devices.counts.of(ALICE, "PHONE")).one_time == {}


async def test_a_claim_and_a_log_out_and_a_message_do_not_wait_for_each_other_for_ever(
    database: Database, database_url: str
) -> None:
    """The claim holds the key and wants the stream, the log-out the device and the key, the message the stream."""
    process, other = await Process.open(database), Database(reactor, database_url)
    await process.log_in(ALICE, "PHONE")
    store = OneTimeKeyStore(other)

    async def add(txn: Transaction) -> None:
        await store.add_txn(txn, ALICE, "PHONE", [OneTimeKey(ALGORITHM, "k", "{}")], keep_claimed=1)

    await other.transaction("add", add)
    circle: list[Deferred[Any]] = []

    async def hold(txn: Transaction) -> None:
        if circle:
            return  # it was this one that had to give way
        await txn.execute("take", "UPDATE stream SET position = position + 1")
        circle.append(Deferred.fromCoroutine(store.claim("other", {ALICE: {"PHONE": ALGORITHM}})))
        await _blocked(database, 1)
        circle.append(Deferred.fromCoroutine(_log_out(other)))
        await _blocked(database, 2)
        await txn.fetch("device", "SELECT FROM devices WHERE device_id = 'PHONE' FOR KEY SHARE")

    await other.transaction("hold", hold)
    claimed, _ = await gatherResults(circle)
    assert (claimed.keys is None) is (claimed.moved == [])  # the log-out may have been first
    assert await database.fetch("left", "SELECT 1 FROM one_time_keys WHERE key IS NOT NULL") == []
    await other.close()


async def _log_out(database: Database) -> None:
    async def delete(txn: Transaction) -> None:
        await txn.execute("log_out", "DELETE FROM devices WHERE device_id = 'PHONE'")

    await database.transaction("log_out", delete)


async def _blocked(database: Database, count: int) -> None:
    """Return when so many sessions of the test's database wait for locks."""
    blocked = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while len(await database.fetch("blocked", blocked)) < count:
        await deferLater(reactor, 0.01)


async def test_eight_at_once_never_get_the_same_key(database: Database, database_url: str) -> None:
    """Each on a connection of its own, as processes are, for several devices at a time; none is lost either."""
    process = await Process.open(database)
    devices = [await process.log_in(user, f"DEVICE{n}") for user in (ALICE, BOB) for n in range(2)]
    for device in devices:
        await process.upload(
            device, 100, fallback_keys={f"{ALGORITHM}:fall": device.one_time_keys(1)[f"{ALGORITHM}:000000"]}
        )
    others = [Database(reactor, database_url) for _ in range(8)]

    async def claim_all(other: Database, backwards: bool) -> list[tuple[str, str, str]]:
        store, got = OneTimeKeyStore(other), []
        wanted: dict[str, dict[str, str]] = {}
        for device in devices[::-1] if backwards else devices:
            wanted.setdefault(device.user_id, {})[device.device_id] = ALGORITHM
        for _ in range(15):
            keys = (await store.claim("test", wanted)).keys
            got += [
                (user_id, device_id, name)
                for user_id, given in orjson.loads(keys or "{}").items()
                for device_id, of_device in given.items()
                for name in of_device
            ]
        return got

    claims = [Deferred.fromCoroutine(claim_all(other, n % 2 == 0)) for n, other in enumerate(others)]
    claimed = [key for got in await gatherResults(claims) for key in got]
    assert len(claimed) == 8 * 15 * 4
    one_time = [key for key in claimed if not key[2].endswith(":fall")]
    assert len(one_time) == len(set(one_time)) == 400
    for other in others:
        await other.close()


async def test_who_sees_which_signatures_and_keys(database: Database) -> None:
    """The user-signing key is its owner's alone; what somebody signed of others, the signer's."""
    process = await Process.open(database)
    phone = await process.log_in(ALICE, "PHONE")
    await process.log_in(BOB, "LAPTOP")
    await process.upload(phone)
    alice, bob = Identity(ALICE), Identity(BOB)
    for identity in (alice, bob):
        await process.devices.cross_signing.upload(identity.user_id, identity.keys(), None)
    master = alice.keys("master")["master"]
    assert isinstance(master, dict)
    failures = await process.devices.signatures.upload(
        BOB, {ALICE: {alice.public("master"): bob.signs(master, "user_signing")}}
    )
    assert failures == {}
    query = process.query
    for viewer, signers in ((ALICE, set()), (BOB, {BOB}), ("@carol:localhost", set())):
        answer = await query(viewer, {ALICE: ()}, 1)
        assert set(answer.master_keys[ALICE].get("signatures", {})) == signers
        assert set(answer.user_signing_keys) == ({ALICE} if viewer == ALICE else set())
        assert set(answer.self_signing_keys) == {ALICE}
    served = await process.devices.stored_keys.query_for_server({ALICE: (), BOB: (), "@x:elsewhere": ()})
    assert set(served.master_keys) == {ALICE, BOB} and not served.user_signing_keys
    assert "signatures" not in served.master_keys[ALICE]


async def test_users_of_other_servers_are_said_to_be_out_of_reach(database: Database) -> None:
    process = await Process.open(database)
    answer = await process.query(ALICE, {"@x:elsewhere:8448": ()}, 1)
    assert set(answer.failures) == {"elsewhere:8448"} and answer.device_keys == {}
    claimed = await process.claim({"@x:elsewhere": {"D": ALGORITHM}}, 1)
    assert set(claimed.failures) == {"elsewhere"}


async def test_a_device_cannot_be_called_like_a_cross_signing_key(database: Database) -> None:
    """Signatures name their key by this alone."""
    process = await Process.open(database)
    identity = Identity(ALICE)
    phone = await process.log_in(ALICE, "PHONE")
    await process.upload(phone)
    await process.devices.cross_signing.upload(ALICE, identity.keys("master"), None)
    named = await process.log_in(ALICE, identity.public("master"))
    with pytest.raises(Forbidden):
        await process.upload(named)
    await process.log_in(ALICE, identity.public("self_signing"))
    with pytest.raises(Forbidden):
        await process.devices.cross_signing.upload(
            ALICE, identity.keys("self_signing"), {"password": "right"}
        )


async def test_requests_are_bounded(database: Database) -> None:
    process = await Process.open(database)
    many = {f"@u{n}:localhost": ["D"] for n in range(10_001)}
    with pytest.raises(TooLarge):
        await process.query(ALICE, many, 1)
    with pytest.raises(TooLarge):
        await process.claim({user: {"D": "a"} for user in many}, 1)
