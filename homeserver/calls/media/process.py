# SPDX-License-Identifier: Apache-2.0
"""The media process as the server sees it: started when first needed and again when it died, ended with the server.

Owns the pipes. Its input is the only tie: when this process ends, however it does, the other reads the end of its input
and goes. A line that is too long, or no JSON, means that it is not to be trusted any more, and ends it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from homeserver.calls.media.messages import MOST_LINE
from homeserver.needs import Protocol

logger = logging.getLogger(__name__)

MODULE = "homeserver.calls.media"
GRACE = 5.0
"""Seconds it gets to end in."""
REAPING = 0.05
LOGGED = 2000
"""Bytes of what it writes to standard error that are logged when it dies."""
PASSED_ON = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Of the environment: nothing secret may stand in what decodes the data of strangers."""

News = Mapping[str, Any]


class Watcher(Protocol):
    """Hears what the media process tells."""

    def told(self, news: News) -> None:
        """It told something."""

    def died(self) -> None:
        """It is gone, and all it was doing."""


class Reactor(Protocol):
    """The reactor's part that is needed here."""

    def spawnProcess(self, *args: Any, **kwargs: Any) -> Any: ...  # noqa: N802
    def callLater(self, delay: float, fn: Callable[..., object], /, *args: object) -> Any: ...  # noqa: N802


def is_installed() -> bool:
    """Whether what the media process needs is there; nothing of it is imported."""
    return find_spec("aiortc") is not None


class MediaProcess:
    """One process at a time."""

    def __init__(
        self, reactor: Reactor, watcher: Watcher, *, bounds: Mapping[str, float] | None = None
    ) -> None:
        """`bounds`: those of `answering.Bounds` that are to be other than they are."""
        self._reactor = reactor
        self._watcher = watcher
        self._bounds = json.dumps(dict(bounds or {}))
        self._protocol: _Pipes | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return None if self._protocol is None else self._protocol.pid

    def send(self, command: Mapping[str, Any]) -> None:
        """Have a command carried out, by a new process if there is none."""
        if self._protocol is None:
            self._protocol = _Pipes(self)
            self._reactor.spawnProcess(
                self._protocol,
                sys.executable,
                [sys.executable, "-m", MODULE, "--bounds", self._bounds],
                env={name: os.environ[name] for name in PASSED_ON if name in os.environ},
                path=None,
            )
        self._protocol.send(json.dumps(command).encode() + b"\n")

    def rest(self) -> Deferred[None]:
        """Let it go, by the end of its input and if that is not enough by force; another is started when needed.
        Fires when it has gone."""
        protocol, self._protocol = self._protocol, None
        if protocol is None:
            return succeed(None)
        ended = protocol.when_ended()
        protocol.close()
        timer = self._reactor.callLater(GRACE, protocol.kill)

        def gone(_: object) -> None:
            if timer.active():
                timer.cancel()

        return ended.addCallback(gone)

    def _told(self, protocol: _Pipes, news: News) -> None:
        if protocol is self._protocol:
            self._watcher.told(news)

    def _ended(self, protocol: _Pipes, said: bytes) -> None:
        if protocol is not self._protocol:
            return
        self._protocol = None
        if not protocol.closed:
            text = said.decode(errors="replace").strip()
            logger.error("the media process ended; it said: %s", text or "nothing")
        self._watcher.died()


class _Pipes(ProcessProtocol):
    """Lines both ways with one process."""

    def __init__(self, owner: MediaProcess) -> None:
        self._owner = owner
        self._received = b""
        self._said = b""
        self._waiting: list[Deferred[None]] = []
        self.closed = False

    @property
    def _process(self) -> Any:
        """The transport; it has more than its interface says."""
        assert self.transport is not None
        return self.transport

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    def send(self, line: bytes) -> None:
        self._process.write(line)

    def close(self) -> None:
        """Say that nothing more comes."""
        self.closed = True
        self._process.closeStdin()

    def kill(self) -> None:
        with contextlib.suppress(ProcessExitedAlready):
            self._process.signalProcess("KILL")

    def when_ended(self) -> Deferred[None]:
        deferred: Deferred[None] = Deferred()
        self._waiting.append(deferred)
        return deferred

    def outReceived(self, data: bytes) -> None:  # noqa: N802
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            try:
                news = json.loads(line)
            except ValueError:
                self.kill()
                return
            self._owner._told(self, news)
        if len(self._received) > MOST_LINE:
            self.kill()

    def errReceived(self, data: bytes) -> None:  # noqa: N802
        self._said = (self._said + data)[-LOGGED:]

    def outConnectionLost(self) -> None:  # noqa: N802
        """It is ending. The server has no handler of SIGCHLD, by which the reactor would learn that it has ended."""
        if self._process.pid is not None:
            self._process.reapProcess()
        if self._process.pid is not None:
            self._owner._reactor.callLater(REAPING, self.outConnectionLost)

    def processEnded(self, reason: Failure) -> None:  # noqa: N802
        self._owner._ended(self, self._said)
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)
