# SPDX-License-Identifier: Apache-2.0
"""Where log lines go: one stream, in order, in few writes.

Owns buffering. A line of the access log per request must not cost a system call each; lines are written together at
most `LATEST` seconds after they came, or at once when one matters (`flush`). What is lost in a crash is access lines of
that instant.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any, Final, TextIO

from homeserver.needs import Protocol

LATEST: Final = 0.2
_MOST_BUFFERED: Final = 64 * 1024


class Scheduler(Protocol):
    """The part of a reactor this needs."""

    def __call__(self, delay: float, callback: Callable[..., object], /) -> Any: ...


class LogOutput:
    """A stream of lines. Without a scheduler (no reactor yet) each line is written at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: list[str] = []
        self._size = 0
        self._scheduler: Scheduler | None = None
        self._call: Any = None
        self._second = (0, "")

    def buffer(self, scheduler: Scheduler) -> None:
        """From now on, write lines together; `scheduler` is the reactor's callLater."""
        self._scheduler = scheduler

    def timestamp(self) -> str:
        """Now, in UTC, to the millisecond: `2026-03-09T12:00:00.123Z`."""
        now = time.time()
        second = int(now)
        if self._second[0] != second:
            self._second = (second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)))
        return f"{self._second[1]}.{str(1000 + int((now - second) * 1000))[1:]}Z"

    def write(self, line: str) -> None:
        """A line, without its end."""
        self._lines.append(line)
        self._size += len(line)
        if self._scheduler is None or self._size > _MOST_BUFFERED:
            self.flush()
        elif self._call is None:
            self._call = self._scheduler(LATEST, self._due)

    def flush(self) -> None:
        """Write what is buffered. A stream that is gone (a closed pipe) is no reason to stop serving."""
        lines, self._lines, self._size = self._lines, [], 0
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
        if lines:
            with contextlib.suppress(OSError, ValueError):
                self._stream.write("\n".join(lines) + "\n")
                self._stream.flush()

    def close(self) -> None:
        """Write what is buffered, and each line at once from now on."""
        self.flush()
        self._scheduler = None

    def _due(self) -> None:
        self._call = None
        self.flush()
