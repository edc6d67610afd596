# SPDX-License-Identifier: Apache-2.0
"""A network between servers of this machine that can be cut, pair by pair.

Each server is reached through a door of its own, which passes bytes on and can tell which server's process has
knocked, since on loopback the other end of a connection is a process of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterable, Iterator

PATIENCE = 60.0
"""Seconds that the thread of the doors has for anything."""


class Network:
    """Doors in front of servers, all served by one thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._pids: dict[int, str] = {}
        self._cut: set[frozenset[str]] = set()
        self._passages: dict[frozenset[str], set[asyncio.StreamWriter]] = {}
        self._doors: list[asyncio.Server] = []

    def open_door(self, owner: str, port: int, behind: int) -> None:
        """Listen on `port` of 127.0.0.1 for the server called `owner`, which listens on `behind`."""

        async def opened() -> asyncio.Server:
            async def enter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await self._enter(owner, behind, reader, writer)

            return await asyncio.start_server(enter, "127.0.0.1", port)

        self._doors.append(asyncio.run_coroutine_threadsafe(opened(), self._loop).result(PATIENCE))

    def knows(self, owner: str, pids: Iterable[int]) -> None:
        """Connections from those processes are the server's."""
        self._pids.update(dict.fromkeys(pids, owner))

    def split(self, *sides: set[str]) -> None:
        """Servers reach only those on their own side; connections to the others end at once."""
        names = set().union(*sides)
        together = {frozenset((a, b)) for side in sides for a in side for b in side}
        cut = {frozenset((a, b)) for a in names for b in names} - together
        asyncio.run_coroutine_threadsafe(self._set_cut(cut), self._loop).result(PATIENCE)

    def heal(self) -> None:
        """Everybody reaches everybody."""
        asyncio.run_coroutine_threadsafe(self._set_cut(set()), self._loop).result(PATIENCE)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    async def _close(self) -> None:
        for door in self._doors:
            door.close()
        for writers in self._passages.values():
            for writer in writers:
                writer.transport.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_default_executor()

    async def _set_cut(self, cut: set[frozenset[str]]) -> None:
        self._cut = cut
        for pair in cut:
            for writer in self._passages.pop(pair, ()):
                writer.transport.abort()

    async def _enter(
        self, owner: str, behind: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await self._let_through(owner, behind, reader, writer)
        except BaseException:
            # The network closed before it was told whose connection this is: nobody else would end it.
            writer.transport.abort()
            raise

    async def _let_through(
        self, owner: str, behind: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        theirs, ours = (writer.get_extra_info(name)[1] for name in ("peername", "sockname"))
        caller = await self._loop.run_in_executor(None, self._caller, theirs, ours)
        pair = frozenset((owner, caller))
        if pair in self._cut:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", behind)
        except OSError:
            writer.transport.abort()
            return
        if pair in self._cut:  # meanwhile
            writer.transport.abort()
            far_writer.transport.abort()
            return
        held = {writer, far_writer}
        self._passages.setdefault(pair, set()).update(held)
        try:
            await asyncio.gather(_pass_on(reader, far_writer), _pass_on(far_reader, writer))
        finally:
            self._passages.get(pair, set()).difference_update(held)

    def _caller(self, theirs: int, ours: int) -> str:
        """Who has the other end of a connection between those ports: told quickly, as a handshake waits for it."""
        socket = f"socket:[{_inode(theirs, ours)}]"
        for pid, name in list(self._pids.items()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for descriptor in os.listdir(f"/proc/{pid}/fd"):
                    with contextlib.suppress(FileNotFoundError):
                        if os.readlink(f"/proc/{pid}/fd/{descriptor}") == socket:
                            return name
        return "somebody else"


def _inode(near: int, far: int) -> str | None:
    """Of the socket of this machine at port `near` that is connected to port `far`."""
    with open("/proc/net/tcp", encoding="ascii") as connections:
        for line in connections:
            _, here, there, *more = line.split(maxsplit=10)
            if here.endswith(f":{near:04X}") and there.endswith(f":{far:04X}"):
                return more[6]
    return None


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(ConnectionError):
        writer.close()


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A network that is gone when the block ends."""
    made = Network()
    try:
        yield made
    finally:
        made.close()
