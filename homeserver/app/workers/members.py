# SPDX-License-Identifier: Apache-2.0
"""A worker as its parent sees it: the process, the connection to it, and what it is in the middle of.

Owns starting the process and what goes over its connection. When one is started and ended is `parent`'s.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

from homeserver.app.workers.listening import Listening
from homeserver.app.workers.orders import DRAIN, MOST, ConfigText, Orders
from homeserver.app.workers.pulse import Pulse

_BLOCKED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
_PATIENCE = 30.0
"""Seconds a child gets to take what it is told."""


class State(Enum):
    """What a worker is in the middle of."""

    STARTING = auto()
    SERVING = auto()
    LEAVING = auto()
    """It was told to end."""
    HANGING = auto()
    """It answers nobody, and was made to end."""


@dataclass(frozen=True, slots=True)
class Edition:
    """What workers are started with; those of one edition are alike."""

    config: ConfigText
    workers: int
    listening: Listening


class Child:
    """A process of this interpreter that runs a module, and the connection to it."""

    def __init__(
        self, module: str, arguments: Sequence[str], descriptors: Sequence[int], first: bytes
    ) -> None:
        """`first` is what it is told at once. It inherits `descriptors`. Raises OSError if it cannot be started."""
        ours, theirs = socket.socketpair()
        with ours as opened, theirs:
            command = [sys.executable, *_path_option(), "-m", module, *arguments]
            # A signal that comes before the child can answer it waits until it can.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
            try:
                self.process = subprocess.Popen(  # noqa: S603 (our own module)
                    [*command, "--control", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=sys.stderr,
                    pass_fds=(theirs.fileno(), *descriptors),
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            opened.settimeout(_PATIENCE)
            with contextlib.suppress(OSError):  # it ended at once, which is seen by its end
                opened.sendall(first)
            opened.setblocking(False)
            self.control = socket.socket(fileno=opened.detach())
        self._received = bytearray()
        self.finished = False
        """Whether it will tell nothing more."""

    def heard(self) -> list[dict[str, Any]]:
        """The messages that have come whole since the last time."""
        with contextlib.suppress(BlockingIOError):
            while not self.finished and len(self._received) < MOST:
                try:
                    data = self.control.recv(65536)
                except ConnectionError:
                    data = b""
                self._received += data
                self.finished = not data
        *lines, rest = bytes(self._received).split(b"\n")
        self._received = bytearray(rest)
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Forget it; it has ended."""
        self.control.close()


class Member:
    """A worker, from its start to its end."""

    def __init__(
        self, orders: Orders, edition: Edition, *, now: float, longest: float, patience: float
    ) -> None:
        """It has `longest` seconds to be ready in, and hangs when it has not turned for `patience` seconds.

        Raises OSError if there is no process to be had.
        """
        descriptors = (*orders.sockets, orders.siblings, orders.roster, orders.limits)
        self.number = orders.number
        self.edition = edition
        self.state = State.STARTING
        self.started = now
        self.deadline = now + longest
        """When it is killed: as long as it starts, and from when it was told to end."""
        self.told: dict[str, Any] = {}
        """What it told with `ready`."""
        self.refused: str | None = None
        self.pulse = Pulse(patience)
        self.child = Child(
            "homeserver.app.workers.child", ["--number", str(orders.number)], descriptors, orders.encode()
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.child.process.pid

    @property
    def end(self) -> str | None:
        """How it ended, in words; None while it lives."""
        code = self.child.process.poll()
        if code is None:
            return None
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"by {signal.Signals(-code).name}"
        return f"with exit code {code}"

    def listen(self) -> bool:
        """Take what it tells; whether it became ready by that."""
        before = self.state
        for message in self.child.heard():
            if "refused" in message:
                self.refused = message["refused"]
            elif "ready" in message and self.state is State.STARTING:
                self.told = message["ready"]
                self.state = State.SERVING
        return before is State.STARTING and self.state is State.SERVING

    def drain(self, deadline: float) -> None:
        """Let it end without its clients' noticing, until then."""
        self._leave(deadline)
        with contextlib.suppress(OSError):
            self.child.control.send(DRAIN)

    def stop(self, deadline: float) -> None:
        """Let it end, until then."""
        self._leave(deadline)
        self.child.process.terminate()

    def abort(self, deadline: float) -> None:
        """It hangs: have it write where, and end, until then. Its Python need not be able to take a signal for that."""
        self.state = State.HANGING
        self.deadline = deadline
        self.child.process.send_signal(signal.SIGABRT)

    def kill(self) -> None:
        """It had all the time there is."""
        self.child.process.kill()

    def _leave(self, deadline: float) -> None:
        self.state = State.LEAVING
        self.deadline = deadline


def _path_option() -> list[str]:
    """`-P` unless this process itself looks for modules in its folder: where a checkout is run that isn't installed."""
    places = {""}
    with contextlib.suppress(FileNotFoundError):  # the folder is gone, and nothing is found in it any more
        places.add(str(Path.cwd()))
    return [] if sys.path[0] in places else ["-P"]
