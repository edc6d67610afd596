# SPDX-License-Identifier: Apache-2.0
"""The media process by its lines alone, as the server has it: commands in, news out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from homeserver.calls.media.messages import MOST_LINE, CallReport
from tests.calls.media_peer import PATIENCE
from tests.serving import CHECKOUT


class MediaChild:
    """One process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._news: list[dict[str, Any]] = []

    def send(self, **command: Any) -> None:
        """Give it a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")

    async def told(self, what: str, call_id: str | None = None) -> dict[str, Any]:
        """The next it tells of that kind, about that call."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while True:
            for news in self._news:
                if news["tell"] == what and news.get("id") == call_id:
                    self._news.remove(news)
                    return news
            assert self.process.stdout is not None
            left = deadline - asyncio.get_running_loop().time()
            line = await asyncio.wait_for(self.process.stdout.readline(), left)
            assert line, f"it ended before it told {what}"
            self._news.append(json.loads(line))

    async def report(self, call_id: str) -> CallReport:
        """What it reports of a call when it is over."""
        return CallReport.parse((await self.told("ended", call_id))["report"])


@contextlib.asynccontextmanager
async def media_child(**bounds: float) -> AsyncIterator[MediaChild]:
    """Run one; it must end by itself when its input ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "homeserver.calls.media", "--bounds", json.dumps(bounds)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=CHECKOUT,
        limit=MOST_LINE,
    )
    child = MediaChild(process)
    try:
        await child.told("ready")
        yield child
        assert process.stdin is not None
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
