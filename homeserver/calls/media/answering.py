# SPDX-License-Identifier: Apache-2.0
"""One call of the echo: answered, sent back to its caller, measured, and ended in time.

Owns when a call is over. Its commands are carried out one after the other, in the order they came.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiortc import MediaStreamTrack, RTCSessionDescription

from homeserver.calls.media.messages import CallReport, Ending
from homeserver.calls.media.peers import (
    MOST_CANDIDATES,
    arrived,
    cleaned,
    connection,
    kinds_of,
    measured,
    usable_candidate,
    used_path,
)
from homeserver.calls.media.tracks import QUIET, EchoPictures, EchoSound, Intake

Tell = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Seconds, but for the last two."""

    duration: float = 60.0
    connecting: float = 30.0
    """Until a path must be found."""
    silence: float = 15.0
    """Without a packet, after which the caller is taken to be gone. Browsers send something every five."""
    bits_per_second: int = 4_000_000
    """That may come in, on average over `RATE_WINDOW`: what is decoded costs this machine its time."""
    calls: int = 4
    """At once."""


RATE_WINDOW = 5
LOOK = 0.5
"""Seconds between looks at a call."""


class EchoCall:
    """One call. `end` or the passing of time end it; then `over` is done and the report was told."""

    def __init__(self, call_id: str, ice: Iterable[Mapping[str, Any]], *, bounds: Bounds, tell: Tell) -> None:
        self._id = call_id
        self._ice = list(ice)
        self._bounds = bounds
        self._tell = tell
        self._peer = connection(self._ice)
        self._peer.on("track", self._track)
        self._peer.on("connectionstatechange", self._state_changed)
        self._intakes: dict[str, Intake] = {}
        self._commands: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        self._why: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._started = time.monotonic()
        self._connected_at: float | None = None
        self._candidates = 0
        self._offered: list[str] = []
        self._heard_of: dict[str, None] = {}
        self.over = asyncio.ensure_future(self._run())

    def _state_changed(self) -> None:
        if self._peer.connectionState == "connected" and self._connected_at is None:
            self._connected_at = time.monotonic()

    def take(self, command: Mapping[str, Any]) -> None:
        """Carry out a command when those before it are done."""
        self._commands.put_nowait(command)

    def end(self, why: Ending) -> None:
        """It is over, unless it was before."""
        if not self._why.done():
            self._why.set_result(why)

    async def _run(self) -> None:
        workers = [asyncio.ensure_future(self._obey()), asyncio.ensure_future(self._watch())]
        try:
            why = await self._why
            report = await self._report(why)
        finally:
            for worker in workers:
                worker.cancel()
            for intake in self._intakes.values():
                intake.stop()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._peer.close(), 5.0)
        self._tell({"tell": "ended", "id": self._id, "report": report.as_dict()})

    # What the caller asks for.

    async def _obey(self) -> None:
        while True:
            command = await self._commands.get()
            try:
                if command["do"] == "candidates":
                    await self._add(command["candidates"])
                else:
                    await self._describe(command)
            except asyncio.CancelledError:
                raise
            except Exception:  # whatever a stranger's description does to the parsers is its own end only
                self.end("unusable")

    async def _describe(self, command: Mapping[str, Any]) -> None:
        """An offer, at first or later: answer it."""
        offer = cleaned(command["sdp"])
        self._note(kinds_of(offer))
        await self._peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        self._send_back()
        answer = await self._peer.createAnswer()
        assert answer is not None
        await self._peer.setLocalDescription(answer)
        sdp = limited(self._peer.localDescription.sdp)
        self._offered = kinds_of(sdp)
        word = "answer" if command["do"] == "answer" else "negotiated"
        self._tell({"tell": word, "id": self._id, "sdp": sdp})

    def _track(self, track: MediaStreamTrack) -> None:
        self._intakes[track.id] = Intake(track)

    def _send_back(self) -> None:
        """Give each transceiver that receives something to send."""
        for transceiver in self._peer.getTransceivers():
            intake = self._intakes.get(transceiver.receiver.track.id)
            playing: MediaStreamTrack | None = transceiver.sender.track
            if intake is None or playing is not None:
                continue
            track = EchoSound(intake) if transceiver.kind == "audio" else EchoPictures(intake)
            transceiver.sender.replaceTrack(track)
            transceiver.direction = "sendrecv"

    async def _add(self, candidates: Iterable[Mapping[str, Any]]) -> None:
        for each in candidates:
            text = each.get("candidate")
            if text == "":
                await self._peer.addIceCandidate(None)
                continue
            candidate = usable_candidate(text) if isinstance(text, str) else None
            if candidate is None or self._candidates >= MOST_CANDIDATES:
                continue
            self._candidates += 1
            self._note([candidate.type])
            mid, index = each.get("sdpMid"), each.get("sdpMLineIndex")
            candidate.sdpMid = mid if isinstance(mid, str) else None
            candidate.sdpMLineIndex = index if type(index) is int else None
            with contextlib.suppress(ValueError):  # for a part of the call that is not there
                await self._peer.addIceCandidate(candidate)

    def _note(self, kinds: Iterable[str]) -> None:
        self._heard_of.update(dict.fromkeys(kinds))

    # The passing of time.

    async def _watch(self) -> None:
        bounds = self._bounds
        last_packets, heard_at = 0, time.monotonic()
        rates: list[int] = []
        while True:
            await asyncio.sleep(LOOK)
            now = time.monotonic()
            state = self._peer.connectionState
            if self._connected_at is None:
                heard_at = now
                if state in ("failed", "closed") or now - self._started > bounds.connecting:
                    self.end("no_handshake" if used_path(self._peer) else "no_path")
                continue
            packets, octets = await arrived(self._peer)
            if packets != last_packets:
                last_packets, heard_at = packets, now
            rates = [*rates[-int(RATE_WINDOW / LOOK) :], octets]
            if now - self._connected_at > bounds.duration:
                self.end("over")
            elif now - heard_at > bounds.silence or state in ("failed", "closed"):
                self.end("vanished")
            elif 8 * (rates[-1] - rates[0]) > bounds.bits_per_second * RATE_WINDOW:
                self.end("too_much")

    async def _report(self, why: Ending) -> CallReport:
        now = time.monotonic()
        path = used_path(self._peer)
        received = []
        for transceiver in self._peer.getTransceivers():
            intake = self._intakes.get(transceiver.receiver.track.id)
            if intake is None:
                continue
            quiet = intake.kind == "audio" and intake.frames > 0 and intake.loudest < QUIET
            received.append(await measured(transceiver, frames=intake.frames, silent=quiet, size=intake.size))
        has_relay = any(uri.startswith("turn") for each in self._ice for uri in each["uris"])
        return CallReport(
            why=why,
            seconds=round(now - self._started, 1),
            connected=self._connected_at is not None,
            connected_after_ms=round(1000 * ((self._connected_at or now) - self._started)),
            local="" if path is None else path[0],
            remote="" if path is None else path[1],
            offered=self._offered,
            heard_of=list(self._heard_of),
            received=received,
            relay_failed=has_relay and bool(self._offered) and "relay" not in self._offered,
        )


def limited(sdp: str) -> str:
    """Our description, asking for pictures of no more than a megabit per second (RFC 4566, `b=AS`)."""
    lines: list[str] = []
    in_video = False
    for line in sdp.splitlines():
        if line.startswith("m="):
            in_video = line.startswith("m=video")
        lines.append(line)
        if in_video and line.startswith("c="):
            lines.append("b=AS:1000")
    return "\r\n".join(lines) + "\r\n"
