# SPDX-License-Identifier: Apache-2.0
"""Makes what is read late, in every Python process that has this folder in `PYTHONPATH` (see `tests.delays`).

Python imports a module of this name when it starts. Owns what is delayed and for how long.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

VARIABLE = "LARES_TEST_DELAYS"
"""The share of what is read that comes late."""

_random = random.SystemRandom()


def _seconds() -> float:
    """Mostly some milliseconds, which is what changes orders; at times as long as a busy machine stands still."""
    return _random.uniform(0.1, 0.5) if _random.random() < 0.02 else _random.expovariate(1 / 0.008)


def _stand_still() -> None:
    if _random.random() < 0.001:
        time.sleep(_random.uniform(0.05, 0.5))


class _Late:
    """Has one class of descriptors read late: out of the reactor for a while, then in it for one reading at least."""

    share = 0.0

    def __init__(self, read: Callable[[Any], Any], stop: Callable[[Any], None], go_on: Callable[[Any], None]):
        self._read = read
        self._stop = stop
        self._go_on = go_on
        self._calls: dict[int, Any] = {}
        """By the id of who is late."""
        self._due: set[int] = set()

    def read(self, descriptor: Any) -> Any:
        """In place of its `doRead`."""
        _stand_still()
        key = id(descriptor)
        if key in self._due:
            self._due.discard(key)
        elif key not in self._calls and _random.random() < self.share:
            from twisted.internet import reactor

            self._stop(descriptor)
            clock: Any = reactor
            self._calls[key] = clock.callLater(_seconds(), self._in_time, descriptor)
            return None
        return self._read(descriptor)

    def is_late(self, descriptor: Any) -> bool:
        return id(descriptor) in self._calls

    def forget(self, descriptor: Any) -> None:
        """It ends, or is not to be read for now."""
        key = id(descriptor)
        self._due.discard(key)
        call = self._calls.pop(key, None)
        if call is not None:
            call.cancel()

    def _in_time(self, descriptor: Any) -> None:
        key = id(descriptor)
        del self._calls[key]
        self._due.add(key)
        self._go_on(descriptor)


def _delay_database(module: Any) -> None:
    """Answers of Postgres and its notifications, of each connection in their order."""
    connection = module.Connection
    read, close = connection.doRead, connection.close
    late = _Late(read, lambda c: c._reactor.removeReader(c), lambda c: c._reactor.addReader(c))

    def do_read(self: Any) -> None:
        if self.closed or self._cursor is None or self._delivering or late.is_late(self):
            read(self)
        else:
            late.read(self)

    def do_close(self: Any) -> None:
        late.forget(self)
        close(self)

    connection.doRead = connection.doWrite = do_read
    connection.close = do_close


def _delay_network(module: Any) -> None:
    """What comes in over TCP."""
    connection = module.Connection
    stop, start, lost = connection.stopReading, connection.startReading, connection.connectionLost
    late = _Late(connection.doRead, stop, start)

    def stop_reading(self: Any) -> None:
        late.forget(self)
        stop(self)

    def start_reading(self: Any) -> None:
        if not late.is_late(self):
            start(self)

    def connection_lost(self: Any, reason: Any) -> Any:
        late.forget(self)
        return lost(self, reason)

    def do_read(self: Any) -> Any:
        return late.read(self)

    connection.doRead = do_read
    connection.stopReading, connection.startReading = stop_reading, start_reading
    connection.connectionLost = connection_lost


def _leave_leftovers(module: Any) -> None:
    """Who is late is registered otherwise than before the test, which says nothing of the test."""
    module.clear_leftovers = lambda _before: []


_DELAYED: dict[str, Callable[[Any], None]] = {
    "storage.database.connection": _delay_database,
    "twisted.internet.tcp": _delay_network,
    "tests.reactor": _leave_leftovers,
}


class _Delayed(Loader):
    """Loads a module, and changes what is in it."""

    def __init__(self, loader: Loader, name: str) -> None:
        self._loader = loader
        self._name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _DELAYED[self._name](module)


class Delays(MetaPathFinder):
    """Finds the modules whose reading is delayed."""

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _DELAYED:
            return None
        sys.meta_path.remove(self)
        try:
            spec = find_spec(fullname)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            spec.loader = _Delayed(spec.loader, fullname)
        return spec


def begin(share: float) -> None:
    """Delay that share of what is read in this process, by modules that are imported already, too. Once is enough."""
    if any(type(finder).__name__ == Delays.__name__ for finder in sys.meta_path):
        return  # under the other name that this module has
    _Late.share = share
    sys.meta_path.insert(0, Delays())
    for name, delay in _DELAYED.items():
        if name in sys.modules:
            delay(sys.modules[name])


if VARIABLE in os.environ:
    begin(float(os.environ[VARIABLE]))
