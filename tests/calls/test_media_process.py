# SPDX-License-Identifier: Apache-2.0
"""The media process answers calls, sends back what comes, tells what it measured, and keeps its bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tests.calls.media_child import MediaChild, media_child
from tests.calls.media_peer import COLOURS, MediaPeer


async def call(child: MediaChild, peer: MediaPeer, call_id: str, ice: Sequence[Any] = ()) -> None:
    """Have it answered, candidates trickled after the offer."""
    sdp, candidates = await peer.offer()
    child.send(do="answer", id=call_id, sdp=sdp, ice=list(ice))
    child.send(do="candidates", id=call_id, candidates=candidates)
    await peer.accept((await child.told("answer", call_id))["sdp"])


def test_what_comes_goes_back_and_is_told() -> None:
    """The greeting first, then the caller's own note and colour; the report has what was sent."""

    async def scenario() -> None:
        async with media_child() as child:
            peer = MediaPeer(hertz=440, colour=COLOURS[0])
            await call(child, peer, "one")
            await asyncio.gather(peer.hears(660, 5), peer.hears(880, 5))
            await asyncio.gather(peer.hears(440), peer.sees(COLOURS[0]))
            before = {kind: await peer.packets(kind) for kind in ("audio", "video")}
            child.send(do="end", id="one", why="caller")
            report = await child.report("one")
            after = {kind: await peer.packets(kind) for kind in before}
            await peer.close()
            assert (report.why, report.connected, report.relay_failed) == ("caller", True, False)
            assert (report.local, report.remote) == ("host", "host")
            assert set(report.heard_of) == {"host"} == set(report.offered)
            by_kind = {each.kind: each for each in report.received}
            assert by_kind["audio"].codec == "opus"
            assert by_kind["video"].size == "160×120"
            for kind, received in by_kind.items():
                # What comes while a busy machine lets nobody read may be lost.
                assert 0.5 * before[kind] <= received.packets + received.lost <= after[kind]
                assert received.packets > 0 and received.frames > 0
            assert not by_kind["audio"].silent

    asyncio.run(scenario())


def test_a_caller_who_vanishes_a_long_call_and_one_too_many() -> None:
    """Each is ended by the process itself, and the report says why."""

    async def scenario() -> None:
        async with media_child(silence=10, calls=1) as hasty, media_child(duration=10) as strict:
            gone, patient = MediaPeer(hertz=440), MediaPeer(hertz=0)
            await call(hasty, gone, "gone")
            await call(strict, patient, "patient")
            hasty.send(do="answer", id="many", sdp="v=0\r\n", ice=[])
            assert (await hasty.report("many")).why == "stopped"
            await gone.hears(440, 5)
            # No farewell: as if the machine had lost its power.
            for transceiver in gone.connection.getTransceivers():
                ice = transceiver.receiver.transport.transport._connection
                for protocol in ice._protocols:
                    protocol.transport.abort()
            report = await hasty.report("gone")
            assert (report.why, report.connected) == ("vanished", True)
            report = await strict.report("patient")
            assert (report.why, report.connected) == ("over", True)
            assert [each.silent for each in report.received] == [True]
            await patient.close()
            await gone.close()

    asyncio.run(scenario())


def test_jitter_is_measured() -> None:
    """Every other packet late by fifteen milliseconds: that is what it comes to (RFC 3550, 6.4.1), or more where the
    machine is busy.
    """

    async def scenario() -> None:
        async with media_child() as child:
            peer = MediaPeer(hertz=440, late=0.015)
            await call(child, peer, "uneven")
            await peer.hears(440, 75)
            child.send(do="end", id="uneven", why="caller")
            (sound,) = (await child.report("uneven")).received
            await peer.close()
            assert 10 <= sound.jitter_ms < 5000

    asyncio.run(scenario())


def test_whoever_sends_too_much_is_hung_up_on() -> None:
    """What is decoded costs this machine its time."""

    async def scenario() -> None:
        async with media_child(bits_per_second=8_000) as child:
            peer = MediaPeer(hertz=440, colour=COLOURS[3])
            await call(child, peer, "loud")
            report = await child.report("loud")
            assert (report.why, report.connected) == ("too_much", True)
            await peer.close()

    asyncio.run(scenario())


def test_no_path_and_offers_that_are_none() -> None:
    """A caller nobody can reach is given up; what is no offer is refused."""

    async def scenario() -> None:
        async with media_child(connecting=10) as child:
            peer = MediaPeer()
            sdp, _ = await peer.offer()
            child.send(do="answer", id="lonely", sdp=sdp, ice=[])
            await child.told("answer", "lonely")
            for number, offer in enumerate(("", "hello", "v=0\r\n" + "m=audio 9 RTP/AVP 0\r\n" * 40)):
                child.send(do="answer", id=f"odd{number}", sdp=offer, ice=[])
                assert (await child.report(f"odd{number}")).why == "unusable"
            report = await child.report("lonely")
            assert (report.why, report.connected, report.heard_of) == ("no_path", False, [])
            await peer.close()

    asyncio.run(scenario())


def test_pictures_can_be_added_to_a_call() -> None:
    """A renegotiation within the call is answered, and what it adds goes back, too."""

    async def scenario() -> None:
        async with media_child() as child:
            peer = MediaPeer(hertz=440)
            await call(child, peer, "one")
            await peer.hears(440, 5)
            peer.show(COLOURS[1])
            sdp, _ = await peer.offer()
            child.send(do="negotiate", id="one", sdp=sdp)
            await peer.accept((await child.told("negotiated", "one"))["sdp"])
            await peer.sees(COLOURS[1], 3)
            await peer.close()

    asyncio.run(scenario())


def test_it_ends_when_its_server_is_gone() -> None:
    """In the middle of a call, too: nothing else ties the two."""

    async def scenario() -> None:
        async with media_child() as child:
            peer = MediaPeer()
            await call(child, peer, "one")
            await peer.hears(440, 2)
        await peer.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("candidate", "used"),
    [
        ("candidate:1 1 udp 2130706431 192.0.2.7 50000 typ host", True),
        ("candidate:1 1 udp 2130706431 192.0.2.7 53 typ host", False),
        ("candidate:1 1 tcp 2130706431 192.0.2.7 50000 typ host tcptype active", False),
        ("candidate:1 1 udp 2130706431 224.0.0.1 50000 typ host", False),
        ("candidate:1 1 udp 2130706431 0.0.0.0 50000 typ host", False),
        ("candidate:1 1 udp 2130706431 255.255.255.255 50000 typ host", False),
        ("candidate:1 1 udp 2130706431 6e1b3a1c.local 50000 typ host", False),
        ("candidate:1 1 udp", False),
        ("nothing", False),
    ],
)
def test_not_every_address_is_knocked_at(candidate: str, used: bool) -> None:
    """A stranger's candidate makes this machine send packets; some are not worth trying and some are forbidden."""
    from homeserver.calls.media.peers import usable_candidate

    assert (usable_candidate(candidate) is not None) == used
