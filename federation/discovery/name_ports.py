# SPDX-License-Identifier: Apache-2.0
"""What a DNS resolver asks of the reactor, with datagram sockets that are closed when they cannot be bound.

Owns the sockets that questions leave by. Twisted's resolver tries ports at random until one is free (so that nobody can
guess where an answer is awaited), and its reactor leaves a socket open whose port was not to be had: one descriptor for
each until the garbage collector finds it. An unprivileged process meets that with every sixtieth question, as ports
below 1024 are tried, too.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.error import CannotListenError


class NamePorts:
    """Time and TCP of the reactor given, and UDP sockets of its own making."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.callLater = reactor.callLater
        self.connectTCP = reactor.connectTCP

    def listenUDP(  # noqa: N802
        self,
        port: int,
        protocol: object,
        interface: str = "",
        maxPacketSize: int = 8192,  # noqa: N803
    ) -> Any:
        """A port of the reactor. Raises CannotListenError, with nothing left open."""
        family = socket.AF_INET6 if ":" in interface else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as bound:
            try:
                bound.bind((interface, port))
            except OSError as error:
                raise CannotListenError(interface, port, error) from error  # type: ignore[no-untyped-call]
            bound.setblocking(False)
            return self._reactor.adoptDatagramPort(bound.fileno(), family, protocol, maxPacketSize)
