# SPDX-License-Identifier: Apache-2.0
"""The media process: reads commands from standard input, tells what happens on standard output (see `messages`).

Owns its own bounds: it ends when its input ends, so that it never outlives the server; it is nice to others on the
machine; its memory and its files are capped. `--bounds` takes those of `answering.Bounds` as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import sys
from collections.abc import Coroutine, Mapping
from typing import Any, BinaryIO

import av.logging

from homeserver.calls.media import examining
from homeserver.calls.media.answering import Bounds, EchoCall
from homeserver.calls.media.messages import MOST_LINE, stopped
from homeserver.calls.media.peers import bound_encoders

MEMORY = 1536 << 20
"""Bytes of data, stacks of the decoders' threads among them."""
FILES = 512
NICE = 5
FAREWELL = 2.0
"""Seconds for calls to end in when the server is gone."""


class MediaProcess:
    """Carries out commands."""

    def __init__(self, bounds: Bounds, out: BinaryIO) -> None:
        self._bounds = bounds
        self._out = out
        self._calls: dict[str, EchoCall] = {}
        self._peers: dict[str, examining.Peer] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def tell(self, news: Mapping[str, Any]) -> None:
        """One line to the server."""
        self._out.write(json.dumps(news).encode() + b"\n")
        self._out.flush()

    def take(self, command: Mapping[str, Any]) -> None:
        """Carry it out, or begin to."""
        call_id, what = command["id"], command["do"]
        match what:
            case "answer":
                self._answer(call_id, command)
            case "candidates" | "negotiate":
                if call_id in self._calls:
                    self._calls[call_id].take(command)
            case "end":
                if call_id in self._calls:
                    self._calls[call_id].end(command["why"])
            case "allocate":
                work = examining.allocate(command["uri"], command["username"], command["password"])
                self._begin(call_id, work)
            case "loop":
                self._begin(call_id, examining.loop(command["ice"]))
            case "offer":
                self._begin(call_id, self._offer(call_id, command))
            case "accept":
                self._begin(call_id, self._accept(call_id, command["sdp"]))

    def _answer(self, call_id: str, command: Mapping[str, Any]) -> None:
        if call_id in self._calls or len(self._calls) >= self._bounds.calls:
            self.tell({"tell": "ended", "id": call_id, "report": stopped().as_dict()})
            return
        call = EchoCall(call_id, command["ice"], bounds=self._bounds, tell=self.tell)
        self._calls[call_id] = call
        call.over.add_done_callback(lambda _: self._calls.pop(call_id, None))
        call.take(command)

    async def _offer(self, call_id: str, command: Mapping[str, Any]) -> dict[str, str]:
        peer = self._peers[call_id] = examining.Peer(command["ice"], relay_only=command["relay_only"])
        return {"sdp": await peer.offer()}

    async def _accept(self, call_id: str, sdp: str) -> dict[str, Any]:
        peer = self._peers.pop(call_id)
        try:
            await peer.accept(sdp)
            return (await peer.talk()).as_dict()
        finally:
            await peer.close()

    def _begin(self, call_id: str, work: Coroutine[Any, Any, object]) -> None:
        async def run() -> None:
            try:
                self.tell({"tell": "result", "id": call_id, "result": await work})
            except Exception as error:
                self.tell({"tell": "failed", "id": call_id, "error": f"{type(error).__name__}: {error}"})

        task = asyncio.ensure_future(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def farewell(self) -> None:
        """End every call, so that relays are given back."""
        calls = list(self._calls.values())
        for call in calls:
            call.end("stopped")
        if calls:
            await asyncio.wait([call.over for call in calls], timeout=FAREWELL)


async def serve(bounds: Bounds, out: BinaryIO) -> None:
    """Until the input ends."""
    reader = asyncio.StreamReader(limit=MOST_LINE)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer
    )
    process = MediaProcess(bounds, out)
    process.tell({"tell": "ready"})
    with contextlib.suppress(BrokenPipeError):
        while line := await reader.readline():
            process.take(json.loads(line))
    with contextlib.suppress(BrokenPipeError):
        await process.farewell()


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bounds", type=json.loads, default={})
    arguments = parser.parse_args()
    # What a library prints must not stand between our lines.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    av.logging.set_level(None)
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    bound_encoders()
    asyncio.run(serve(Bounds(**arguments.bounds), out))
    out.flush()
    os._exit(0)  # threads of decoders may hang on what never comes


if __name__ == "__main__":
    main()
