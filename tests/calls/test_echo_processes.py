# SPDX-License-Identifier: Apache-2.0
"""Several server processes on one database, of which one is the echo account; and its media process, which may die."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import psutil

from homeserver.calls.echo.calls import REPORT
from storage.database import Database
from storage.echo import EchoStore, LeftCall
from tests.calls.conftest import Town
from tests.calls.lines import lines
from tests.calls.media_peer import MediaPeer
from tests.calls.phone import Phone
from tests.calls.test_echo import chat_with_echo
from tests.serving import postgres, serving


async def test_one_process_at_a_time_is_the_account(database: Database) -> None:
    """The lease is one process's until it lapses, is given up, or there can be no other; its reading goes on."""
    one, other = EchoStore(database, "one"), EchoStore(database, "other")
    assert await one.take(60, 7, alone=False) == 7
    assert await other.take(60, 9, alone=False) is None
    assert not await other.renew(60, 9)
    assert await one.renew(60, 8)
    assert await one.renew(0, 10)
    assert await other.take(60, 9, alone=False) == 10
    assert not await one.renew(60, 11)
    assert await one.take(60, 9, alone=True) == 10
    call = LeftCall("!room", "call", "party", "0")
    await one.begin(call)
    await one.begin(call)
    assert await other.left() == [call]
    await other.end("!room", "call")
    assert await one.left() == []


def test_two_processes_answer_once_and_one_goes_on_for_the_other(tmp_path: Path) -> None:
    """A call is answered once whichever process it comes through; when the account's process stops, another is it."""
    settings = {"calls": {"echo_user": "echo"}}
    with (
        postgres(tmp_path / "db") as url,
        serving(tmp_path / "a", database_url=url, settings=settings) as first,
        first.beside(tmp_path / "b") as second,
    ):
        town = Town(second)
        alice = town.line(town.person("alice"))

        async def answers() -> int:
            async with lines(alice):
                phone = Phone(alice, await chat_with_echo(alice), MediaPeer())
                await phone.place()
                await phone.peer.hears(440, 2)
                await phone.hang_up()
                await phone.next_message()
                await phone.put_down()
            return sum(event["type"] == "m.call.answer" for event in phone.seen)

        assert asyncio.run(answers()) == 1
        first.stop()
        alice = town.line(town.person("bob"))
        assert asyncio.run(answers()) == 1


def test_a_media_process_that_dies_takes_its_calls_only(town: Town) -> None:
    """The caller is hung up on and told; the server goes on, and the next call is answered by another process."""

    async def scenario() -> None:
        alice = town.line(town.person("alice"))
        async with lines(alice):
            room_id = await chat_with_echo(alice)
            phone = Phone(alice, room_id, MediaPeer())
            await phone.place()
            await phone.peer.hears(440, 2)
            (child,) = media_processes(town.server.pid)
            child.kill()
            assert (await phone.next("hangup"))["reason"] == "unknown_error"
            told = await phone.next_message()
            assert told[REPORT]["why"] == "stopped" and "please call once more" in told["body"]
            await phone.put_down()
            again = Phone(alice, room_id, MediaPeer())
            await again.place()
            await again.peer.hears(440, 2)
            assert [each.pid for each in media_processes(town.server.pid)] != [child.pid]
            await again.hang_up()
            await again.next_message()
            await again.put_down()

    asyncio.run(scenario())


def media_processes(server: int) -> list[psutil.Process]:
    """Those that the server has."""
    found = []
    for each in psutil.Process(server).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "homeserver.calls.media" in each.cmdline():
                found.append(each)
    return found
