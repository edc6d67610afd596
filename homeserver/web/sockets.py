# SPDX-License-Identifier: Apache-2.0
"""Opening the sockets that listeners accept on.

Owns the options of a listening socket and the refusal in words where it cannot be had. Needs no reactor, so that a
parent of many processes can open them for all. What is answered on them is `listeners`'.
"""

import errno
import socket
from typing import Final

from homeserver.config import StartRefused
from homeserver.config.sections import Listener

_BACKLOG: Final = 1024


def open_socket(listener: Listener) -> socket.socket:
    """A listening socket for `WebServer.listen`, to be opened before processes part. Raises StartRefused.

    An IPv6 wildcard takes IPv4 connections too, where the system is set so.
    """
    try:
        found = socket.getaddrinfo(
            listener.bind, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _name, address = found[0]
        opened = socket.socket(family, kind, protocol)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.setblocking(False)
            opened.bind(address)
            opened.listen(_BACKLOG)
        except OSError:
            opened.close()
            raise
    except OSError as error:
        reason = f"cannot listen on {listener.bind} port {listener.port}: {error.strerror}"
        if error.errno == errno.EADDRINUSE:
            reason += "; another program, or another instance of this server, is using it"
        raise StartRefused(reason) from error
    return opened


def address_of(opened: socket.socket) -> str:
    """`host:port` of a listening socket, with the port the system chose where 0 was asked for."""
    host, port = opened.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
