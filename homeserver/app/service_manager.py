# SPDX-License-Identifier: Apache-2.0
"""What systemd is told, if it started this process: that it serves, and again and again that it does not hang.

Owns the datagrams (sd_notify(3)). Where nobody asked for them nothing is sent.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final

_PATIENCE: Final = 5.0
"""Seconds in which it takes what must not be lost."""


class ServiceManager:
    """The manager of one process, the main one of its service."""

    def __init__(self, place: str | None, watchdog: float | None) -> None:
        """`place`: its socket, None without one. It wants to hear within every `watchdog` seconds, or need not."""
        self._place = place
        self.interval = None if place is None or watchdog is None else watchdog / 2
        """Seconds after which to call `alive`, if that is wanted."""
        self._told_at = float("-inf")

    @classmethod
    def take_from(cls, environment: MutableMapping[str, str]) -> ServiceManager:
        """As the environment of this process says, which then says it no more: children are not the service."""
        place = environment.pop("NOTIFY_SOCKET", None)
        microseconds, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        meant = microseconds.isdecimal() and pid in {"", str(os.getpid())}
        return cls(place or None, int(microseconds) / 1e6 if meant else None)

    def ready(self) -> None:
        """The server accepts requests."""
        self._tell("READY=1", _PATIENCE)

    def stopping(self) -> None:
        """It has begun to stop."""
        self._tell("STOPPING=1", _PATIENCE)

    def alive(self) -> None:
        """It does not hang. May be called as often as one likes."""
        now = time.monotonic()
        if self.interval is not None and now - self._told_at >= self.interval / 2:
            self._told_at = now
            self._tell("WATCHDOG=1", 0.0)

    def _tell(self, message: str, patience: float) -> None:
        if self._place is None:
            return
        place = "\0" + self._place[1:] if self._place.startswith("@") else self._place
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as teller:
                teller.settimeout(patience)
                teller.sendto(message.encode(), place)
        except OSError:  # what it did not hear it acts upon; there may be no descriptor left to tell it
            return
