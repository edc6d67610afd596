# SPDX-License-Identifier: Apache-2.0
"""What the echo plays: a greeting tone, then the caller's own sound and pictures, within bounds.

A caller's frames are taken from where they arrive as fast as they come and only a few are kept, so that a side that
stops listening costs no memory. Pictures are made smaller and fewer where they are more than the echo sends.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import math
import time
from collections import deque
from fractions import Fraction

from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame, AudioResampler, VideoFrame
from av.frame import Frame

RATE = 48_000
SAMPLES = RATE // 50
"""Of a frame: 20 ms."""
GREETING = ((660.0, 0.25), (880.0, 0.35), (0.0, 0.15))
"""Hertz and seconds: two notes and a breath."""
LOUDNESS = 6000
LONGEST_SILENCE = 2.0
"""Seconds after which somebody who sends nothing is greeted all the same."""
KEPT_SOUNDS = 25
"""Frames of sound that may wait: half a second."""
WIDEST, HIGHEST = 640, 480
PICTURES_PER_SECOND = 15
QUIET = 64
"""Of 32767: a microphone in the quietest room is above it."""


class Intake:
    """Takes the frames of a caller's track, counts them and keeps the newest."""

    def __init__(self, track: MediaStreamTrack) -> None:
        self.kind = track.kind
        self.frames = 0
        self.loudest = 0
        self.size = ""
        self._track = track
        self._kept: deque[Frame] = deque(maxlen=KEPT_SOUNDS if track.kind == "audio" else 1)
        self._news = asyncio.Event()
        self._first = asyncio.Event()
        self._ended = False
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await self._track.recv()
                self.frames += 1
                self._look_at(frame)
                if isinstance(frame, Frame):
                    self._kept.append(frame)
                self._news.set()
                self._first.set()
        self._ended = True
        self._news.set()

    def _look_at(self, frame: object) -> None:
        if isinstance(frame, VideoFrame):
            self.size = f"{frame.width}×{frame.height}"
        elif isinstance(frame, AudioFrame) and frame.format.name == "s16":
            some = array.array("h", bytes(frame.planes[0])[: frame.samples * 2])[::16]
            self.loudest = max(self.loudest, max(map(abs, some), default=0))

    async def next(self) -> Frame:
        """The oldest frame that was kept. Raises MediaStreamError when no more will come."""
        while not self._kept:
            if self._ended:
                raise MediaStreamError
            self._news.clear()
            await self._news.wait()
        return self._kept.popleft()

    async def begun(self, seconds: float) -> None:
        """Wait for the first frame, or for so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._first.wait(), seconds)

    def stop(self) -> None:
        """Take no more."""
        self._task.cancel()


class EchoSound(MediaStreamTrack):
    """The greeting, then what comes in."""

    kind = "audio"

    def __init__(self, intake: Intake) -> None:
        super().__init__()
        self._intake = intake
        self._greeting = deque(tone(GREETING))
        self._started = 0.0
        self._played = 0
        self._resampler: AudioResampler | None = None
        self._form: tuple[str, str, int] | None = None
        self._ready: deque[AudioFrame] = deque()

    async def recv(self) -> Frame:
        """The next 20 ms."""
        if self.readyState != "live":
            raise MediaStreamError
        if self._greeting:
            if not self._started:
                # What is sent before the caller's side is ready is lost; something of theirs shows that it is.
                await self._intake.begun(LONGEST_SILENCE)
                self._started = time.monotonic()
            await asyncio.sleep(self._started + self._played / RATE - time.monotonic())
            frame = self._greeting.popleft()
        else:
            while not self._ready:
                self._take(await self._intake.next())
            frame = self._ready.popleft()
        frame.pts = self._played
        frame.time_base = Fraction(1, RATE)
        self._played += SAMPLES
        return frame

    def _take(self, frame: Frame) -> None:
        """Into frames of one form, whatever codec it came by."""
        assert isinstance(frame, AudioFrame)
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or form != self._form:
            self._resampler = AudioResampler(format="s16", layout="mono", rate=RATE, frame_size=SAMPLES)
            self._form = form
        self._ready.extend(self._resampler.resample(frame))


class EchoPictures(MediaStreamTrack):
    """What comes in, no larger and no faster than the bounds."""

    kind = "video"

    def __init__(self, intake: Intake) -> None:
        super().__init__()
        self._intake = intake
        self._started: float | None = None
        self._next_at = 0.0

    async def recv(self) -> Frame:
        """The next picture."""
        while True:
            if self.readyState != "live":
                raise MediaStreamError
            frame = await self._intake.next()
            now = time.monotonic()
            if now >= self._next_at:
                break
        self._next_at = now + 0.8 / PICTURES_PER_SECOND
        if self._started is None:
            self._started = now
        assert isinstance(frame, VideoFrame)
        picture = within_bounds(frame)
        picture.pts = round((now - self._started) * 90_000)
        picture.time_base = Fraction(1, 90_000)
        return picture


def within_bounds(frame: VideoFrame) -> VideoFrame:
    """The frame, smaller if it is too large; sides stay even, as codecs want them."""
    factor = min(WIDEST / frame.width, HIGHEST / frame.height, 1.0)
    if factor == 1.0:
        return frame
    width, height = (max(2, int(side * factor) // 2 * 2) for side in (frame.width, frame.height))
    return frame.reformat(width=width, height=height)


def tone(notes: tuple[tuple[float, float], ...]) -> list[AudioFrame]:
    """Frames of those notes, each faded in and out so that it does not click."""
    samples = array.array("h")
    for hertz, seconds in notes:
        count = int(RATE * seconds)
        fade = max(1, min(count // 2, RATE // 100))
        samples.extend(
            int(LOUDNESS * min(1.0, n / fade, (count - n) / fade) * math.sin(2 * math.pi * hertz * n / RATE))
            for n in range(count)
        )
    frames = []
    for start in range(0, len(samples) - SAMPLES + 1, SAMPLES):
        frame = AudioFrame(format="s16", layout="mono", samples=SAMPLES)
        frame.planes[0].update(samples[start : start + SAMPLES].tobytes())
        frame.sample_rate = RATE
        frames.append(frame)
    return frames
