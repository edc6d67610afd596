# SPDX-License-Identifier: Apache-2.0
"""One end of a call: plays a note and pictures of one colour, and knows by their content what arrived.

Owns the media and nothing of how descriptions get to the other end. No test waits for a time: it waits for frames.
"""

from __future__ import annotations

import array
import asyncio
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCIceServer,
    RTCIceTransportPolicy,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from aiortc.sdp import candidate_from_sdp
from av import AudioFrame, VideoFrame
from av.frame import Frame

from homeserver.calls.media.tracks import RATE, SAMPLES, tone

PATIENCE = 120.0
"""Seconds until what was waited for is taken not to come."""
WIDTH, HEIGHT = 160, 120
LUMINANCE = 110
NEAR = 20
"""How far a colour may move by being coded."""

Colour = tuple[int, int]
"""Blue and red difference (U, V)."""
COLOURS: tuple[Colour, ...] = ((68, 188), (188, 68), (188, 188), (68, 68))


class Note(MediaStreamTrack):
    """A tone without end; 0 Hertz is silence. Every other frame of it is late by some seconds."""

    kind = "audio"

    def __init__(self, hertz: float, late: float = 0.0) -> None:
        super().__init__()
        self._late = late
        self._frames = itertools.cycle(tone(((hertz, 1.0),)))
        self._at = 0
        self._begun = 0.0

    async def recv(self) -> Frame:
        if self.readyState != "live":
            raise MediaStreamError
        now = asyncio.get_running_loop().time()
        self._begun = self._begun or now
        late = self._late if self._at // SAMPLES % 2 else 0.0
        await asyncio.sleep(self._begun + self._at / RATE + late - now)
        frame = next(self._frames)
        frame.pts, frame.time_base = self._at, Fraction(1, RATE)
        self._at += SAMPLES
        return frame


class Picture(MediaStreamTrack):
    """Ten pictures a second, all of one colour."""

    kind = "video"

    def __init__(self, colour: Colour) -> None:
        super().__init__()
        self._colour = colour
        self._count = 0

    async def recv(self) -> Frame:
        if self.readyState != "live":
            raise MediaStreamError
        await asyncio.sleep(0.1)
        frame = VideoFrame(WIDTH, HEIGHT, "yuv420p")
        for plane, value in zip(frame.planes, (LUMINANCE, *self._colour), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.pts, frame.time_base = 9000 * self._count, Fraction(1, 90_000)
        self._count += 1
        return frame


class MediaPeer:
    """One end."""

    def __init__(
        self,
        *,
        hertz: float | None = 440.0,
        late: float = 0.0,
        colour: Colour | None = None,
        ice: Mapping[str, Any] | None = None,
        relay_only: bool = False,
    ) -> None:
        """`ice` is an answer of `/voip/turnServer`; without it there are only this machine's own addresses."""
        servers = (
            [RTCIceServer(list(ice["uris"]), ice["username"], ice["password"])] if ice is not None else []
        )
        policy = RTCIceTransportPolicy.RELAY if relay_only else RTCIceTransportPolicy.ALL
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=servers, iceTransportPolicy=policy))
        self.connection.on("track", self._arrived)
        self.pitches: Counter[int] = Counter()
        """Of the sound that came, by frame, to the nearest 20 Hertz; 0 is silence."""
        self.colours: Counter[Colour | None] = Counter()
        """Of the pictures that came; None for one that is none of `COLOURS`."""
        self._tasks: list[asyncio.Task[None]] = []
        if hertz is not None:
            self.connection.addTrack(Note(hertz, late))
        if colour is not None:
            self.connection.addTrack(Picture(colour))

    def show(self, colour: Colour) -> None:
        """Send pictures from the next offer on."""
        self.connection.addTrack(Picture(colour))

    # Descriptions.

    async def offer(self) -> tuple[str, list[dict[str, Any]]]:
        """An offer without candidates, and these apart, as clients trickle them."""
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return taken_apart(self.connection.localDescription.sdp)

    async def answer(self, sdp: str) -> tuple[str, list[dict[str, Any]]]:
        """The answer to an offer, likewise."""
        await self.connection.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
        answer = await self.connection.createAnswer()
        assert answer is not None
        await self.connection.setLocalDescription(answer)
        return taken_apart(self.connection.localDescription.sdp)

    async def accept(self, sdp: str) -> None:
        """The other's answer."""
        await self.connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))

    async def add(self, candidates: Iterable[Mapping[str, Any]]) -> None:
        """Candidates of the other, as they stand in `m.call.candidates`."""
        for each in candidates:
            if not each["candidate"]:
                await self.connection.addIceCandidate(None)
                continue
            candidate = candidate_from_sdp(each["candidate"].removeprefix("candidate:"))
            candidate.sdpMid, candidate.sdpMLineIndex = each["sdpMid"], each["sdpMLineIndex"]
            await self.connection.addIceCandidate(candidate)

    # What arrives.

    def _arrived(self, track: MediaStreamTrack) -> None:
        self._tasks.append(asyncio.ensure_future(self._listen(track)))

    async def _listen(self, track: MediaStreamTrack) -> None:
        try:
            while True:
                frame = await track.recv()
                if isinstance(frame, AudioFrame):
                    self.pitches[pitch_of(frame)] += 1
                elif isinstance(frame, VideoFrame):
                    self.colours[colour_of(frame)] += 1
        except MediaStreamError:
            return

    def heard(self, hertz: float) -> int:
        """Frames of sound of about that pitch."""
        return sum(count for pitch, count in self.pitches.items() if abs(pitch - hertz) <= 40)

    async def hears(self, hertz: float, frames: int = 25) -> None:
        """Wait until so many frames of that note have come."""
        await self._until(lambda: self.heard(hertz) >= frames, f"{hertz} Hz; heard {self.pitches}")

    async def sees(self, colour: Colour, frames: int = 5) -> None:
        """Wait until so many pictures of that colour have come."""
        await self._until(lambda: self.colours[colour] >= frames, f"{colour}; saw {self.colours}")

    async def _until(self, condition: Any, what: str) -> None:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not condition():
            if asyncio.get_running_loop().time() > deadline:
                heard, seen = dict(self.pitches), dict(self.colours)
                raise AssertionError(
                    f"waited in vain for {what}; {heard=} {seen=} {self.connection.connectionState}"
                )
            await asyncio.sleep(0.02)

    def path(self) -> tuple[str, str]:
        """Kinds of the candidates in use, one's own first."""
        ice = self.connection.getTransceivers()[0].receiver.transport.transport
        pair = next(iter(ice._connection._nominated.values()))
        return pair.local_candidate.type, pair.remote_candidate.type

    async def packets(self, kind: str) -> int:
        """Packets of that kind that were sent."""
        sent = 0
        for sender in self.connection.getSenders():
            for each in (await sender.getStats()).values():
                if each.type == "outbound-rtp" and each.kind == kind:
                    sent = max(sent, each.packetsSent)
        return sent

    async def close(self) -> None:
        """End it; nothing more is sent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.connection.close()


def taken_apart(sdp: str) -> tuple[str, list[dict[str, Any]]]:
    """A description without its candidates, and these as `m.call.candidates` has them, the end among them."""
    kept: list[str] = []
    candidates: list[dict[str, Any]] = []
    index, mid = -1, ""
    sections = sdp.splitlines()
    mids = [line.removeprefix("a=mid:") for line in sections if line.startswith("a=mid:")]
    for line in sections:
        if line.startswith("m="):
            index += 1
            mid = mids[index]
        if line.startswith("a=candidate:"):
            candidates.append({"candidate": line[2:], "sdpMid": mid, "sdpMLineIndex": index})
        elif line != "a=end-of-candidates":
            kept.append(line)
    candidates.append({"candidate": "", "sdpMid": mids[0], "sdpMLineIndex": 0})
    return "\r\n".join(kept) + "\r\n", candidates


def pitch_of(frame: AudioFrame) -> int:
    """The pitch of a frame of sound by its crossings of zero, to the nearest 20 Hertz; 0: silence."""
    channels = len(frame.layout.channels)
    samples: Sequence[int] = array.array("h", bytes(frame.planes[0])[: 2 * frame.samples * channels])[
        ::channels
    ]
    if max(map(abs, samples), default=0) < 500:
        return 0
    crossings = [n for n, (before, after) in enumerate(itertools.pairwise(samples)) if before < 0 <= after]
    if len(crossings) < 2:
        return 0
    hertz = frame.sample_rate * (len(crossings) - 1) / (crossings[-1] - crossings[0])
    return round(hertz / 20) * 20


def colour_of(frame: VideoFrame) -> Colour | None:
    """Which of `COLOURS` the middle of a picture has."""
    blue, red = (
        bytes(plane)[plane.line_size * (plane.height // 2) + plane.width // 2] for plane in frame.planes[1:3]
    )
    for colour in COLOURS:
        if abs(blue - colour[0]) <= NEAR and abs(red - colour[1]) <= NEAR:
            return colour
    return None
