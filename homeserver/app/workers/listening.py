# SPDX-License-Identifier: Apache-2.0
"""The listening sockets of a server of several processes, from its start on and over changes of the configuration.

Owns which are kept, opened and closed. An address that stays in the configuration keeps its socket, so that no
connection to it is refused; one with port 0 keeps the port it got.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from homeserver.config.sections import Listener
from homeserver.web.sockets import open_socket

Address = tuple[str, int]
"""What a listener's `bind` and `port` say."""


class Listening:
    """The sockets that are open, in the order of the listeners of one configuration."""

    def __init__(self, addresses: Sequence[Address], sockets: Sequence[socket.socket]) -> None:
        self.addresses = tuple(addresses)
        self.sockets = tuple(sockets)

    @classmethod
    def open(
        cls,
        addresses: Sequence[Address],
        kept: Listening | None = None,
        opener: Callable[[Listener], socket.socket] = open_socket,
    ) -> Listening:
        """Those of the addresses, taking from `kept` what it has. Raises StartRefused, and then nothing new is open."""
        there: dict[Address, list[socket.socket]] = {}
        if kept is not None:
            for address, opened in zip(kept.addresses, kept.sockets, strict=True):
                there.setdefault(address, []).append(opened)
        sockets, fresh = [], []
        try:
            for bind, port in addresses:
                if there.get((bind, port)):
                    sockets.append(there[bind, port].pop(0))
                else:
                    fresh.append(opener(Listener(bind=bind, port=port)))
                    sockets.append(fresh[-1])
        except BaseException:
            for opened in fresh:
                opened.close()
            raise
        return cls(addresses, sockets)

    def close(self, kept: Listening | None = None) -> None:
        """Close all that `kept` has not."""
        for opened in self.sockets:
            if kept is None or opened not in kept.sockets:
                opened.close()
