# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802 (Twisted's names)
"""Accepted TCP connections that write at once.

Owns the short way from a response to the socket. Twisted's own keeps what is written until the reactor tells that the
socket takes it: two changes to what is polled and one more turn per response, a third of what the smallest one costs.
Nearly always the socket takes all; what it does not take goes Twisted's way.
"""

from twisted.internet.tcp import Server


class Connection(Server):
    """What a `Port` makes of an accepted socket where its `transport` names this class."""

    _waits = False
    """Whether there is something that was not written yet, or the connection is to be closed."""

    def write(self, data: bytes) -> None:
        """As a transport's."""
        if self._waits or not self.connected:
            super().write(data)  # type: ignore[no-untyped-call]
            return
        try:
            sent = self.socket.send(data)
        except OSError:  # full; or lost, as the reactor will find when it tries
            sent = 0
        if sent < len(data):
            super().write(data[sent:])  # type: ignore[no-untyped-call]

    def startWriting(self) -> None:
        """There is something to write, or the end to come to."""
        self._waits = True
        super().startWriting()  # type: ignore[no-untyped-call]

    def stopWriting(self) -> None:
        """All is written."""
        self._waits = False
        super().stopWriting()  # type: ignore[no-untyped-call]
