# SPDX-License-Identifier: Apache-2.0
"""The echo account: whom it joins, how it answers, and whether its report says what was sent."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

from homeserver.calls.echo.calls import BEGUN_ANEW, REPORT
from homeserver.calls.echo.chats import CANNOT_HEAR
from homeserver.calls.echo.explaining import JITTERY, LOSSY
from tests.calls.conftest import Town
from tests.calls.lines import PATIENCE, LongPollLine, lines
from tests.calls.media_peer import COLOURS, MediaPeer
from tests.calls.phone import Phone
from tests.serving import CHECKOUT, Account

ECHO = "@echo:localhost"
DIRECT_PATHS = {"host", "srflx", "prflx"}
ANY_PATH = {*DIRECT_PATHS, "relay"}
"""Of several ways that work, any may be the one that both sides agree on."""
DIRECT = {"preset": "trusted_private_chat", "is_direct": True, "invite": [ECHO]}


async def chat_with_echo(line: LongPollLine, **wishes: Any) -> str:
    """A chat of two, once the echo is in it."""
    room_id = str((await line.call("POST", "createRoom", {**DIRECT, **wishes}))["room_id"])
    await membership(line, room_id, "join")
    return room_id


async def membership(line: LongPollLine, room_id: str, wanted: str) -> None:
    """Wait until the echo has that membership."""
    while True:
        there, event = await line.heard()
        who = (there, event["type"], event.get("state_key"))
        if who == (room_id, "m.room.member", ECHO) and event["content"]["membership"] == wanted:
            return


async def notice(line: LongPollLine, room_id: str) -> Mapping[str, Any]:
    """The next notice of the echo."""
    while True:
        there, event = await line.heard()
        if there == room_id and event["type"] == "m.room.message" and event["sender"] == ECHO:
            assert event["content"]["msgtype"] == "m.notice"
            return dict(event["content"])


async def call_echo(
    line: LongPollLine, hertz: float, *, relay: Mapping[str, Any] | None = None, version: object = "1"
) -> tuple[Mapping[str, Any], range]:
    """A call of a second or so that the caller ends; the report's content, and how many packets of sound were sent:
    from what they were when it was ended, to what they were when the report had come.
    """
    room_id = await chat_with_echo(line)
    peer = MediaPeer(hertz=hertz, colour=COLOURS[2], ice=relay, relay_only=relay is not None)
    phone = Phone(line, room_id, peer, version=version)
    try:
        await phone.place()
        await peer.hears(880, 3)
        await asyncio.gather(peer.hears(hertz), peer.sees(COLOURS[2]))
        before = await peer.packets("audio")
        await phone.hang_up()
        told = await phone.next_message()
        sent = range(before, await peer.packets("audio") + 1)
    finally:
        await phone.put_down()
    return told, sent


def check_report(content: Mapping[str, Any], sent: range, *, paths: tuple[set[str], set[str]]) -> None:
    """It has what was sent, and says so in words. Where the machine is busy packets come unevenly, and those that come
    while nobody reads are lost in the end.
    """
    report = content[REPORT]
    assert (report["why"], report["connected"]) == ("caller", True)
    assert report["remote"] in paths[0] and report["local"] in paths[1]
    by_kind = {each["kind"]: each for each in report["received"]}
    assert by_kind["audio"]["codec"] == "opus" and by_kind["video"]["codec"] == "VP8"
    sound = by_kind["audio"]
    assert 0.5 * sent.start <= sound["packets"] + sound["lost"] < sent.stop
    assert sound["frames"] > 0 and not sound["silent"]
    for each in by_kind.values():
        assert 0 <= each["jitter_us"] < 5_000_000
        assert f"jitter {each['jitter_us'] / 1000:.0f} ms" in content["body"]
    assert by_kind["video"]["size"] == "160×120" and by_kind["video"]["frames"] >= 5
    loss = {kind: 100 * each["lost"] / (each["packets"] + each["lost"]) for kind, each in by_kind.items()}
    assert (
        f"Sound (opus): {sound['packets']} packets arrived, {sound['lost']} were lost ({loss['audio']:.1f} %)"
        in content["body"]
    )
    assert "Picture (VP8, 160×120)" in content["body"]
    well = max(loss.values()) < LOSSY and all(each["jitter_us"] < 1000 * JITTERY for each in by_kind.values())
    assert ("Everything arrived well" in content["body"]) is well


def test_two_people_call_the_echo_at_once(town: Town) -> None:
    """Each hears the greeting and then themselves, and is told what arrived; one by an old client."""

    async def scenario() -> None:
        alice, bob = town.line(town.person("alice")), town.line(town.person("bob"))
        async with lines(alice, bob):
            outcomes = await asyncio.gather(call_echo(alice, 440), call_echo(bob, 1200, version=0))
        for content, sent in outcomes:
            check_report(content, sent, paths=(DIRECT_PATHS, ANY_PATH))

    asyncio.run(scenario())


def test_a_call_through_the_relay(town: Town) -> None:
    """With what `/voip/turnServer` gives, and nothing but the relay, a call comes about, and the report says so."""

    async def scenario() -> None:
        alice = town.line(town.person("alice"))
        async with lines(alice):
            relay = await alice.call("GET", "voip/turnServer")
            content, sent = await call_echo(alice, 440, relay=relay)
        check_report(content, sent, paths=({"relay"}, ANY_PATH))
        assert "your app through the TURN server (relay)" in content["body"]

    asyncio.run(scenario())


def test_a_caller_whose_machine_loses_its_power(town: Town) -> None:
    """In the middle of the call, without a word: the echo hangs up, and its notice says that nothing more came."""

    async def scenario() -> None:
        account = town.person("alice")
        witness = town.line(account)
        async with lines(witness):
            room_id = await chat_with_echo(witness)
            caller = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.calls.caller"),
                *(str(town.server.port), account.user_id, account.access_token, room_id),
                cwd=CHECKOUT,
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                assert caller.stdout is not None
                assert await asyncio.wait_for(caller.stdout.readline(), PATIENCE) == b"heard\n"
            finally:
                caller.kill()
                await caller.wait()
            while True:
                _, event = await witness.heard()
                if event["type"] == "m.call.hangup":
                    break
            assert (event["sender"], event["content"]["reason"]) == (ECHO, "ice_failed")
            told = await notice(witness, room_id)
        report = told[REPORT]
        assert (report["why"], report["connected"]) == ("vanished", True)
        (sound,) = report["received"]
        assert sound["packets"] > 0 and sound["frames"] > 0 and 0 <= sound["jitter_us"] < 1_000_000
        assert "Then nothing more came from you, and you did not hang up" in told["body"]

    asyncio.run(scenario())


def test_one_call_at_a_time_and_what_is_no_call(town: Town) -> None:
    """A second call of the same person is declined; what is no offer is hung up, and explained."""

    async def scenario() -> None:
        alice = town.line(town.person("alice"))
        async with lines(alice):
            room_id = await chat_with_echo(alice)
            phone = Phone(alice, room_id, MediaPeer())
            await phone.ring()
            second = {**phone.common(), "call_id": "second", "lifetime": 60_000}
            offer = {"type": "offer", "sdp": "v=0\r\n"}
            await alice.send(room_id, "m.call.invite", {**second, "offer": offer})
            await phone.be_answered()
            refused = await phone.other_call("m.call.reject")
            assert (refused["call_id"], refused["reason"]) == ("second", "user_busy")
            await phone.hang_up()
            await phone.next_message()
            await phone.put_down()
            third = {**second, "call_id": "third", "offer": {"type": "offer", "sdp": "nothing of the kind"}}
            await alice.send(room_id, "m.call.invite", third)
            assert "offer of a call is not understood" in (await notice(alice, room_id))["body"]
            # What is over is not answered, and what is for others neither: the next notice is of the call after them.
            late = {**second, "call_id": "late", "lifetime": 1, "offer": offer}
            await alice.send(room_id, "m.call.invite", late)
            await alice.send(
                room_id, "m.call.invite", {**late, "lifetime": 60_000, "invitee": "@a:localhost"}
            )
            await alice.send(room_id, "m.call.invite", {**third, "call_id": "fifth"})
            while True:
                _, event = await alice.heard()
                if event["sender"] == ECHO:
                    assert event["content"].get("call_id", "fifth") == "fifth"
                    if event["type"] == "m.room.message":
                        break

    asyncio.run(scenario())


def test_whom_it_joins_and_when_it_leaves(town: Town) -> None:
    """Chats of two only; alone it does not stay."""

    async def scenario() -> None:
        account, other = town.person("alice"), town.person("bob")
        alice = town.line(account)
        async with lines(alice):
            crowd = {**DIRECT, "invite": [ECHO, other.user_id]}
            room_id = str((await alice.call("POST", "createRoom", crowd))["room_id"])
            await membership(alice, room_id, "leave")
            room_id = await chat_with_echo(alice)
            await alice.call("POST", f"rooms/{room_id}/invite", {"user_id": other.user_id})
            await membership(alice, room_id, "leave")

    asyncio.run(scenario())


def test_only_chats_with_it_are_not_encrypted_by_default(town: Town) -> None:
    """It has no keys; with people, private rooms are encrypted as ever."""

    async def scenario() -> None:
        alice, bob = town.line(town.person("alice")), town.person("bob")
        async with lines(alice):
            rooms = [await chat_with_echo(alice)]
            wishes = {**DIRECT, "invite": [bob.user_id]}
            rooms.append(str((await alice.call("POST", "createRoom", wishes))["room_id"]))
            states = [await alice.call("GET", f"rooms/{room_id}/state") for room_id in rooms]
        types = [{event["type"] for event in state} for state in states]
        assert ["m.room.encryption" in each for each in types] == [False, True]

    asyncio.run(scenario())


def test_it_says_that_it_cannot_hear_what_is_encrypted(town: Town) -> None:
    """At once in a chat that is encrypted, and when encryption is switched on later."""

    async def scenario() -> None:
        alice = town.line(town.person("alice"))
        encryption = {"algorithm": "m.megolm.v1.aes-sha2"}
        state = [{"type": "m.room.encryption", "state_key": "", "content": encryption}]
        async with lines(alice):
            room_id = await chat_with_echo(alice, initial_state=state)
            assert (await notice(alice, room_id))["body"] == CANNOT_HEAR
            room_id = await chat_with_echo(alice)
            await alice.call("PUT", f"rooms/{room_id}/state/m.room.encryption", encryption)
            assert (await notice(alice, room_id))["body"] == CANNOT_HEAR

    asyncio.run(scenario())


def test_nobody_is_it_but_the_server(town: Town) -> None:
    """Its name is taken, and no password opens it."""
    login = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": ECHO},
        "password": "",
    }
    assert town.server.call("POST", "/_matrix/client/v3/login", login).status == 403
    register = {"username": "echo", "password": "a password nobody has", "auth": {"type": "m.login.dummy"}}
    answer = town.server.call("POST", "/_matrix/client/v3/register", register)
    assert (answer.status, answer.body["errcode"]) == (400, "M_USER_IN_USE")


def test_a_call_survives_no_restart_but_is_explained(town: Town) -> None:
    """After a power cut the caller is hung up on and told; and the echo answers again."""

    async def ring(account: Account) -> tuple[str, str | None]:
        alice = town.line(account)
        async with lines(alice):
            room_id = await chat_with_echo(alice)
            phone = Phone(alice, room_id, MediaPeer())
            await phone.place()
            await phone.peer.hears(440, 2)
            town.server.kill()
            await phone.put_down()
            return room_id, alice.since

    async def afterwards(account: Account, room_id: str, since: str | None) -> None:
        alice = town.line(account)
        alice.since = since
        async with lines(alice):
            while True:
                _, event = await alice.heard()
                if event["type"] == "m.call.hangup":
                    break
            assert (await notice(alice, room_id))["body"] == BEGUN_ANEW

    account = town.person("alice")
    room_id, since = asyncio.run(ring(account))
    town.server.start()
    asyncio.run(afterwards(account, room_id, since))
    line = town.line(town.person("bob"))

    async def again() -> None:
        async with lines(line):
            content, sent = await call_echo(line, 440)
        check_report(content, sent, paths=(DIRECT_PATHS, ANY_PATH))

    asyncio.run(again())
