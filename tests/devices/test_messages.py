# SPDX-License-Identifier: Apache-2.0
"""Messages to devices on a real Postgres: once, in order, until the device has them."""

from __future__ import annotations

import secrets
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, gatherResults

from homeserver.devices import messages
from homeserver.devices.messages import digest
from homeserver.devices.remote import MessagesOut
from homeserver.errors import BadJson, InvalidParam, TooLarge
from homeserver.protocol.tokens import SyncToken
from storage.database import Database
from tests.devices.devices_fixture import Process
from tests.rooms.engine_fixture import ALICE, BOB, CAROL


class Client:
    """A device that syncs: keeps what it got, and its token."""

    def __init__(self, process: Process, user_id: str, device_id: str) -> None:
        self.process, self.user_id, self.device_id = process, user_id, device_id
        self.token: SyncToken | None = None
        self.got: list[Any] = []

    async def look(self) -> tuple[list[Any], SyncToken]:
        """What a response would hold, and its token; nothing is kept of it."""
        section, upto = self.process.sections[0], self.process.position
        if self.token is not None:
            await section.acknowledge(self.user_id, self.device_id, self.token)
        news = await section.changed(self.user_id, self.device_id, self.token, upto)
        events = orjson.loads(news.fields["to_device"])["events"] if news.fields else []
        assert news.has_news is bool(events)
        return events, SyncToken(upto, 0, news.to_device_told)

    async def sync(self) -> list[Any]:
        events, self.token = await self.look()
        self.got += [event["content"]["n"] for event in events]
        return events

    async def stored(self) -> int:
        query = "SELECT count(*) FROM to_device_messages WHERE user_id = %s AND device_id = %s"
        row = await self.process.engine.database.fetch_one("count", query, (self.user_id, self.device_id))
        assert row is not None
        return int(row[0])


async def _send(
    process: Process, to: dict[str, list[str]], n: int = 0, transaction: str | None = None
) -> None:
    contents = {user: {device: {"n": n} for device in devices} for user, devices in to.items()}
    await process.devices.to_device.send(ALICE, "m.test", contents, digest(transaction or f"transaction {n}"))


async def test_a_message_reaches_the_devices_it_names_once(database: Database) -> None:
    """`*` names all of a user's; those that do not exist are passed over."""
    process = await Process.open(database)
    for user, device in ((BOB, "B1"), (BOB, "B2"), (CAROL, "C1")):
        await process.log_in(user, device)
    await _send(process, {BOB: ["B1", "GONE"], CAROL: ["*"], "@nobody:localhost": ["X"]}, 1)
    await _send(process, {BOB: ["*"]}, 2)
    expected = {"B1": [1, 2], "B2": [2], "C1": [1]}
    for user, device in ((BOB, "B1"), (BOB, "B2"), (CAROL, "C1")):
        client = Client(process, user, device)
        events = await client.sync()
        assert client.got == expected[device]
        assert all(event["sender"] == ALICE and event["type"] == "m.test" for event in events)
        assert await client.sync() == []


async def test_a_message_is_kept_until_the_device_comes_back_with_its_token(database: Database) -> None:
    process = await Process.open(database)
    await process.log_in(BOB, "B1")
    client = Client(process, BOB, "B1")
    await _send(process, {BOB: ["B1"]}, 1)
    first, token = await client.look()
    again, _ = await client.look()
    assert first == again and await client.stored() == 1
    client.token = token
    await _send(process, {BOB: ["B1"]}, 2)
    await client.sync()
    assert client.got == [2] and await client.stored() == 1
    await client.sync()
    assert await client.stored() == 0


async def test_many_messages_come_in_pages(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What did not fit is neither lost nor sent twice, also if another process answers, and some come meanwhile."""
    monkeypatch.setattr(messages, "PAGE", 10)
    process = await Process.open(database)
    await process.log_in(BOB, "B1")
    client = Client(process, BOB, "B1")
    for n in range(25):
        await _send(process, {BOB: ["B1"]}, n)
    assert len(await client.sync()) == 10
    assert client.token is not None and 0 < client.token.to_device < client.token.position
    assert SyncToken.parse(str(client.token)) == client.token
    await _send(process, {BOB: ["B1"]}, 25)
    client.process = await Process.open(database)
    repeated, _ = await client.look()
    assert [event["content"]["n"] for event in repeated] == list(range(10, 20))
    while await client.sync():
        pass
    assert client.got == list(range(26)) and client.token.to_device == 0
    assert await client.stored() == 0


async def test_a_repeated_request_sends_nothing(database: Database) -> None:
    """From any process, and when both come at once."""
    process, other = await Process.open(database), await Process.open(database)
    await process.log_in(BOB, "B1")
    await _send(process, {BOB: ["B1"]}, 1, "same")
    await _send(process, {BOB: ["B1"]}, 1, "same")
    await _send(other, {BOB: ["B1"]}, 1, "same")
    for _ in range(2):
        contents = {BOB: {"B1": {"n": 2}}}
        sends = [process.devices.to_device.send(ALICE, "m.test", contents, digest("both")) for _ in range(2)]
        await gatherResults([Deferred.fromCoroutine(send) for send in sends])
    await process.reached(other.position)
    client = Client(process, BOB, "B1")
    await client.sync()
    assert client.got == [1, 2]


async def test_without_messages_there_is_no_query(database: Database) -> None:
    process = await Process.open(database)
    await process.log_in(BOB, "B1")
    client = Client(process, BOB, "B1")
    await client.sync()
    await client.sync()
    await _send(process, {CAROL: ["C1"]}, 1)
    await database.close()
    assert await client.sync() == [] and await client.sync() == []


async def test_messages_go_with_their_device(database: Database) -> None:
    """A later device of the same name does not get them."""
    process = await Process.open(database)
    await process.log_in(BOB, "B1")
    await _send(process, {BOB: ["B1"]}, 1)
    await database.execute("delete", "DELETE FROM devices WHERE user_id = %s", (BOB,))
    await process.log_in(BOB, "B1")
    assert await Client(process, BOB, "B1").sync() == []


async def test_another_process_wakes_the_recipient(database: Database) -> None:
    process, other = await Process.open(database), await Process.open(database)
    await process.log_in(BOB, "B1")
    client = Client(process, BOB, "B1")
    await client.sync()
    woken = process.engine.stream.listen(BOB).wait()
    await _send(other, {BOB: ["B1"]}, 7)
    await woken
    await process.reached(other.position)
    await client.sync()
    assert client.got == [7]


async def test_the_queue_of_a_device_that_never_comes_is_bounded(database: Database) -> None:
    process = await Process.open(database)
    await process.log_in(BOB, "B1")
    await database.execute(
        "fill",
        "INSERT INTO to_device_messages SELECT %s, 'B1', -n, '{}' FROM generate_series(1, 9999) AS n",
        (BOB,),
    )
    await _send(process, {BOB: ["B1"]}, 1)
    await _send(process, {BOB: ["B1"]}, 2)
    assert await Client(process, BOB, "B1").stored() == 10_000


async def test_what_cannot_be_sent(database: Database) -> None:
    """Refused as a whole, before anything reaches a commit that others share."""
    process = await Process.open(database)
    send = process.devices.to_device.send
    await process.log_in(BOB, "B1")
    for event_type, contents, error in (
        ("a\0b", {BOB: {"B1": {}}}, InvalidParam),
        ("", {BOB: {"B1": {}}}, InvalidParam),
        ("ä" * 128, {BOB: {"B1": {}}}, TooLarge),
        ("a", {BOB: {"B\0": {}}}, InvalidParam),
        ("a", {BOB: {"B1": []}}, BadJson),
        ("a", {BOB: {"B1": {"x": "y" * 66_000}}}, TooLarge),
        ("a", {BOB: {f"D{n}": {} for n in range(10_001)}}, TooLarge),
    ):
        with pytest.raises(error):
            await send(ALICE, event_type, contents, digest("x"))  # type: ignore[arg-type]
    await send(ALICE, "a", {BOB: {"B1": {"n": "a\0b"}}}, digest("x"))
    events = await Client(process, BOB, "B1").look()
    assert events[0][0]["content"] == {"n": "a\0b"}


async def test_a_large_request_is_committed_in_portions_and_still_once(database: Database) -> None:
    process = await Process.open(database)
    names = [f"B{n:03}" for n in range(300)]
    for name in names:
        await process.log_in(BOB, name)
    for _ in range(2):
        await _send(process, {BOB: names}, 5)
    for name in (names[0], names[120], names[-1]):
        client = Client(process, BOB, name)
        await client.sync()
        assert client.got == [5]


class RemoteDevices:
    """Notes what is sent; fails the first time."""

    def __init__(self) -> None:
        self.sent: list[MessagesOut] = []
        self.failing = True

    async def send(self, messages: MessagesOut) -> None:
        if self.failing:
            self.failing = False
            raise OSError
        self.sent.append(messages)


async def test_messages_for_other_servers_are_handed_over_once(database: Database) -> None:
    """And again after a failure, with the same transaction."""
    remote = RemoteDevices()
    process = await Process.open(database, devices=remote)
    await process.log_in(BOB, "B1")
    contents: dict[str, dict[str, Any]] = {BOB: {"B1": {"n": 1}}, "@x:elsewhere": {"X": {"n": 2}}}
    for _ in range(3):
        try:
            await process.devices.to_device.send(ALICE, "m.test", contents, digest("t"))
        except OSError:
            assert await Client(process, BOB, "B1").stored() == 0
    assert remote.sent == [MessagesOut(ALICE, "m.test", digest("t"), {"@x:elsewhere": {"X": {"n": 2}}})]
    only = {"@x:elsewhere": {"X": {"n": 3}}}
    for _ in range(2):
        await process.devices.to_device.send(ALICE, "m.test", only, digest("u"))
    assert len(remote.sent) == 2 and await Client(process, BOB, "B1").stored() == 1


@pytest.mark.parametrize("number", [0.5, 2**53, -(2**53), 1e3])
async def test_what_servers_cannot_sign_is_refused_where_a_server_would_have_to(
    database: Database, number: float
) -> None:
    """As a whole, instead of losing it on the way; who is of this server gets it as it was sent."""
    remote = RemoteDevices()
    remote.failing = False
    process = await Process.open(database, devices=remote)
    await process.log_in(BOB, "B1")
    content = {"list": [{"n": number}]}
    send = process.devices.to_device.send
    with pytest.raises(BadJson):
        await send(ALICE, "m.test", {BOB: {"B1": {}}, "@x:elsewhere": {"X": content}}, digest("t"))
    assert remote.sent == [] and await Client(process, BOB, "B1").stored() == 0
    await send(ALICE, "m.test", {BOB: {"B1": content}, "@x:elsewhere": {"X": {"n": 1}}}, digest("t"))
    events, _ = await Client(process, BOB, "B1").look()
    assert events[0]["content"] == content and len(remote.sent) == 1


async def test_what_is_too_long_for_a_device_here_goes_to_no_server(database: Database) -> None:
    """A request is refused as a whole."""
    remote = RemoteDevices()
    remote.failing = False
    process = await Process.open(database, devices=remote)
    contents: dict[str, dict[str, Any]] = {
        BOB: {"B1": {"x": "y" * 66_000}},
        "@x:elsewhere": {"X": {}},
    }
    with pytest.raises(TooLarge):
        await process.devices.to_device.send(ALICE, "m.test", contents, digest("t"))
    assert remote.sent == []


async def test_a_message_to_all_and_one_to_a_device_both_come(database: Database) -> None:
    """Though a device is in the request twice."""
    process = await Process.open(database)
    for name in ("B1", "B2"):
        await process.log_in(BOB, name)
    contents = {BOB: {"*": {"n": 1}, "B2": {"n": 2}}}
    for _ in range(2):
        await process.devices.to_device.send(ALICE, "m.test", contents, digest("t"))
    first, second = Client(process, BOB, "B1"), Client(process, BOB, "B2")
    await first.sync()
    await second.sync()
    assert first.got == [1] and sorted(second.got) == [1, 2]


async def test_a_request_that_was_cut_short_is_carried_out_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two portions, with other servers told already: the rest is not lost, nothing comes twice."""
    remote = RemoteDevices()
    remote.failing = False
    process = await Process.open(database, devices=remote)
    names = [f"B{n}" for n in range(5)]
    for name in names:
        await process.log_in(BOB, name)
    monkeypatch.setattr(messages, "_MOST_MESSAGES", 2)
    to_device, committed = process.devices.to_device, process.devices.to_device._commit
    left = 1

    async def commit(letter: Any, transaction: str) -> None:
        nonlocal left
        if left == 0:
            raise OSError
        left -= 1
        await committed(letter, transaction)

    monkeypatch.setattr(to_device, "_commit", commit)
    to = {BOB: names, "@x:elsewhere": ["X"]}
    with pytest.raises(OSError):
        await _send(process, to, 7)
    left = 10
    for _ in range(2):
        await _send(process, to, 7)
    for name in names:
        client = Client(process, BOB, name)
        await client.sync()
        assert client.got == [7]


async def test_what_another_server_repeats_is_delivered_once(database: Database) -> None:
    """By its name and its id of the message; another server's same id is another message."""
    process = await Process.open(database)
    await process.log_in(BOB, "B1")
    receive = process.devices.to_device.receive
    for server in ("one.example", "one.example", "two.example"):
        await receive(server, "id", f"@x:{server}", "m.test", {BOB: {"*": {"n": 1}}, "@y:other": {"Y": {}}})
    client = Client(process, BOB, "B1")
    await client.sync()
    assert client.got == [1, 1]


ACTIONS = st.lists(st.sampled_from(["send", "send both", "sync", "lost", "other"]), max_size=25)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(actions=ACTIONS)
async def test_whatever_happens_each_message_comes_once_and_in_order(
    database: Database, actions: list[str]
) -> None:
    """Responses may get lost, and processes take turns."""
    processes = [await Process.open(database), await Process.open(database)]
    user = f"@{secrets.token_hex(6)}:localhost"
    await processes[0].log_in(user, "D")
    client = Client(processes[0], user, "D")
    sent: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "PAGE", 3)
        for action in [*actions, "sync"]:
            match action:
                case "send" | "send both":
                    for process in processes if action == "send both" else processes[:1]:
                        sent.append(len(sent))
                        await _send(process, {user: ["D"]}, sent[-1], f"{user} {len(sent)}")
                case "sync":
                    await client.sync()
                case "lost":
                    await client.look()
                case "other":
                    processes.reverse()
                    target = max(process.position for process in processes)
                    for process in processes:
                        await process.reached(target)
                    client.process = processes[0]
        target = max(process.position for process in processes)
        await client.process.reached(target)
        while await client.sync():
            pass
    assert client.got == sent
