# SPDX-License-Identifier: Apache-2.0
"""What `lares doctor calls` tries: an allocation on a TURN server, two peers through it, a call to the echo account.

Owns the attempts and their outcome as plain values; what they mean to an administrator is said elsewhere. Every attempt
ends by itself within `LONGEST` seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from fractions import Fraction
from typing import Any

from aioice import stun, turn
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcicetransport import parse_stun_turn_uri
from av import VideoFrame
from av.frame import Frame

from homeserver.calls.media.messages import CallReport, Received
from homeserver.calls.media.peers import connection, kinds_of, measured, used_path
from homeserver.calls.media.tracks import SAMPLES, Intake, tone

LONGEST = 25.0
ALLOCATING = 15.0
"""Seconds an allocation may take; a server that answers does so in a fraction of one, unless it is overloaded."""
GIVING_BACK = 2.0
TALKING = 2.0
"""Seconds for which media goes both ways, and longer where not everything has come by then."""
LOOK = 0.1


async def allocate(uri: str, username: str, password: str) -> dict[str, str]:
    """An allocation on a TURN server, given back at once: `relayed` and `reflexive`, as host:port, and the address of
    the `server` itself.

    Where that fails, `error` (`refused`, `silent`, `unreachable`, `certificate`, `name`, `uri`) and `detail`.
    """
    try:
        place = parse_stun_turn_uri(uri)
    except ValueError:
        return {"error": "uri", "detail": "this form of URI is not understood here"}
    try:
        resolved = await asyncio.get_running_loop().getaddrinfo(place["host"], place["port"])
    except OSError as error:
        return {"error": "name", "detail": detail_of(error)}
    tls: ssl.SSLContext | None = ssl.create_default_context() if place["scheme"] == "turns" else None
    gone = asyncio.Event()
    attempt = turn.create_turn_endpoint(
        lambda: _Ending(gone),
        (place["host"], place["port"]),
        username,
        password,
        ssl=tls,
        transport=place["transport"],
    )
    try:
        endpoint, _ = await asyncio.wait_for(attempt, ALLOCATING)
    except Exception as error:
        return {"error": kind_of(error), "detail": detail_of(error)}
    found = {
        "relayed": _place(endpoint.get_extra_info("sockname")),
        "reflexive": _place(endpoint.get_extra_info("related_address")),
        "server": str(resolved[0][4][0]),
    }
    endpoint.close()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(gone.wait(), GIVING_BACK)
    return found


class _Ending(asyncio.DatagramProtocol):
    """Tells when an allocation was given back."""

    def __init__(self, gone: asyncio.Event) -> None:
        self._gone = gone

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()


def kind_of(error: Exception) -> str:
    """The words of `allocate` for what went wrong."""
    match error:
        case stun.TransactionFailed():
            return "refused"
        case TimeoutError() | stun.TransactionTimeout():
            return "silent"
        case ssl.SSLError():
            return "certificate"
    return "unreachable"


def detail_of(error: Exception) -> str:
    """What the other side, or the system, said."""
    if isinstance(error, stun.TransactionFailed):
        code = error.response.attributes.get("ERROR-CODE", (0, ""))
        return f"{code[0]} {code[1]}".strip()
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _place(address: tuple[str, int] | None) -> str:
    if address is None:
        return ""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Hum(MediaStreamTrack):
    """A note that goes on."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._notes = itertools.cycle(tone(((440.0, 1.0),)))
        self._at = 0
        self._begun = 0.0

    async def recv(self) -> Frame:
        """The next 20 ms."""
        if self.readyState != "live":
            raise MediaStreamError
        now = asyncio.get_running_loop().time()
        self._begun = self._begun or now
        await asyncio.sleep(self._begun + self._at / 48_000 - now)
        frame = next(self._notes)
        frame.pts, frame.time_base = self._at, Fraction(1, 48_000)
        self._at += SAMPLES
        return frame


class Grey(MediaStreamTrack):
    """Small pictures of nothing."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    async def recv(self) -> Frame:
        """The next picture, ten a second."""
        if self.readyState != "live":
            raise MediaStreamError
        await asyncio.sleep(0.1)
        frame = VideoFrame(160, 120, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes([128]) * plane.buffer_size)
        frame.pts, frame.time_base = 9000 * self._count, Fraction(1, 90_000)
        self._count += 1
        return frame


class Peer:
    """One side of a call that the examination makes."""

    def __init__(self, ice: Iterable[Mapping[str, Any]], *, relay_only: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._peer: RTCPeerConnection = connection(ice, relay_only=relay_only)
        self._intakes: dict[str, Intake] = {}
        self._connected: asyncio.Future[bool] = self._loop.create_future()
        self._begun = self._loop.time()
        self._peer.on("track", self._track)
        self._peer.on("connectionstatechange", self._moved)
        self._peer.addTrack(Hum())
        self._peer.addTrack(Grey())

    def _track(self, track: MediaStreamTrack) -> None:
        self._intakes[track.id] = Intake(track)

    def _moved(self) -> None:
        state = self._peer.connectionState
        if state in ("connected", "failed", "closed") and not self._connected.done():
            self._connected.set_result(state == "connected")

    async def offer(self) -> str:
        """A description with all candidates."""
        offer = await self._peer.createOffer()
        await self._peer.setLocalDescription(offer)
        return str(self._peer.localDescription.sdp)

    async def answer(self, sdp: str) -> str:
        """The answer to another's offer."""
        await self._peer.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
        answer = await self._peer.createAnswer()
        assert answer is not None
        await self._peer.setLocalDescription(answer)
        return str(self._peer.localDescription.sdp)

    async def accept(self, sdp: str) -> None:
        """The other's answer."""
        await self._peer.setRemoteDescription(RTCSessionDescription(sdp, "answer"))

    async def talk(self) -> CallReport:
        """Wait for the connection, let media flow until some of everything came, and say what did."""
        deadline = self._loop.time() + LONGEST
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._connected), LONGEST - TALKING)
        connected = self._connected.done() and self._connected.result()
        if connected:
            await asyncio.sleep(TALKING)
            while not self._has_all() and self._loop.time() < deadline:
                await asyncio.sleep(LOOK)
        path = used_path(self._peer)
        received: list[Received] = []
        for transceiver in self._peer.getTransceivers():
            intake = self._intakes.get(transceiver.receiver.track.id)
            if intake is not None:
                found = await measured(transceiver, frames=intake.frames, silent=False, size=intake.size)
                received.append(found)
        return CallReport(
            why="over" if connected else "no_handshake" if path else "no_path",
            seconds=round(self._loop.time() - self._begun, 1),
            connected=connected,
            local="" if path is None else path[0],
            remote="" if path is None else path[1],
            offered=kinds_of(self._peer.localDescription.sdp),
            received=received,
        )

    def _has_all(self) -> bool:
        """Whether sound and pictures came."""
        return {intake.kind for intake in self._intakes.values() if intake.frames} == {"audio", "video"}

    async def close(self) -> None:
        """End it."""
        for intake in self._intakes.values():
            intake.stop()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._peer.close(), 5.0)


async def loop(ice: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Two peers, both of which may only use the relay: what each of them received."""
    one, other = Peer(ice, relay_only=True), Peer(ice, relay_only=True)
    try:
        await one.accept(await other.answer(await one.offer()))
        reports = await asyncio.gather(one.talk(), other.talk())
        return [asdict(report) for report in reports]
    finally:
        await asyncio.gather(one.close(), other.close())
