# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.costs.counted DESCRIPTOR CONFIG`: the server, with a counter of calls that its parent switches.

Owns the counter and the orders it obeys; they come as single bytes over the socket of that descriptor:

- `h`: hold. The reactor's thread does nothing but wait for the next order, so that requests gather in the kernel and
  are all there in the reactor's next turn, however slow who sends them;
- `b`, `g`: go on, counting from now on (`b`) or as before (`g`);
- `e`: end of counting; the answer is a line of JSON, `{"calls": …, "turns": …, "functions": {name: calls}}`.

A call is one of a Python function or of a C function, or a coroutine's going on. The garbage collector is off: what
it does has no fixed place.
"""

import cProfile
import gc
import json
import socket
import sys
from collections import Counter
from pathlib import Path
from types import CodeType
from typing import Any

from twisted.internet import reactor as installed

from homeserver import cli

_ROOT = str(Path(__file__).resolve().parents[2]) + "/"
_TURN = "doPoll"
"""What each turn of the reactor calls once."""


class Control:
    """The orders' receiving end, a reader of the reactor."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._profile = cProfile.Profile()

    def fileno(self) -> int:
        return self._orders.fileno()

    def logPrefix(self) -> str:
        return "orders"

    def connectionLost(self, _reason: object) -> None:
        """The parent is gone; the server ends by its own means."""

    def doRead(self) -> None:
        order = self._orders.recv(1)
        while order == b"h":
            self._orders.sendall(b"h")
            order = self._orders.recv(1)
        if order == b"b":
            self._profile = cProfile.Profile()
            self._profile.enable()
        elif order == b"e":
            self._profile.disable()
            self._orders.sendall(json.dumps(_counted(self._profile)).encode() + b"\n")
        elif not order:
            reactor: Any = installed
            reactor.removeReader(self)


def _counted(profile: cProfile.Profile) -> dict[str, Any]:
    functions: Counter[str] = Counter()
    for entry in profile.getstats():
        functions[_named(entry.code)] += entry.callcount
    turns = sum(count for name, count in functions.items() if name.endswith(f" {_TURN}"))
    return {"calls": functions.total(), "turns": turns, "functions": functions}


def _named(code: CodeType | str) -> str:
    if isinstance(code, str):
        return code
    return f"{code.co_filename.removeprefix(_ROOT)}:{code.co_firstlineno} {code.co_name}"


def main() -> int:
    """Run the server until it is told to stop."""
    descriptor, config = sys.argv[1:]
    orders = socket.socket(fileno=int(descriptor))
    gc.disable()
    reactor: Any = installed
    reactor.callWhenRunning(reactor.addReader, Control(orders))
    return cli.main(["serve", "--config", config])


if __name__ == "__main__":
    sys.exit(main())
