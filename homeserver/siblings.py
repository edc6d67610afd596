# SPDX-License-Identifier: Apache-2.0
"""What the processes of one machine show each other without asking the database: how far each has told its news.

A page of shared memory holds two numbers per process, each written by that process alone:

- *shown*: the greatest stream position that it has shown, or answered a client about;
- *told*: the serial of the last of its other notifications that stands.

Both are written once the commit or the NOTIFY stands and before a client is answered, and only grow, also over a
restart of the process. So whoever has heard as much as the page says knows whatever any client of this machine was
told. Owns the memory; waiting is `stream/hearing.py`'s.

A number is an aligned machine word, so that it is never read half written. Nothing is locked, and a process that
dies leaves nothing behind but numbers that hold.
"""

from __future__ import annotations

import mmap
import os
import secrets
import sys
from collections.abc import Sequence

from homeserver.needs import Protocol

SIZE = 4096
"""Bytes of the shared page."""
MOST = 255
"""Processes that fit. The page has a word for each that is shown, as many for what is told, and its name."""
_NAME = SIZE // 8 - 1


class Neighbourhood(Protocol):
    """The processes of one machine, this one too. `shown` and `told` have a number per process."""

    @property
    def name(self) -> str: ...

    @property
    def number(self) -> int: ...

    @property
    def shown(self) -> Sequence[int]: ...

    @property
    def told(self) -> Sequence[int]: ...

    def page(self) -> bytes:
        """All these numbers; the same bytes are the same numbers."""
        ...

    def show(self, position: int) -> None: ...

    def tell(self, serial: int) -> None: ...


class Siblings:
    """The page as process `number` of `count` sees it."""

    __slots__ = ("_page", "_words", "name", "number", "shown", "told")

    def __init__(self, memory: mmap.mmap, number: int, count: int) -> None:
        """`memory` is that of a `shared_page`."""
        if not 0 <= number < count <= MOST:
            raise ValueError(f"process {number} of {count}: there is room for {MOST}")
        self._words = words = memoryview(memory).cast("q")
        self.name = f"{words[_NAME]:x}"
        """Tells the processes of this page from those of other machines."""
        self.number = number
        self.shown: Sequence[int] = words[:count]
        """By process, the greatest position it has shown."""
        self.told: Sequence[int] = words[MOST : MOST + count]
        """By process, the serial of its newest other notification that stands."""
        self._page = words[: MOST + count]

    def page(self) -> bytes:
        return self._page.tobytes()

    @classmethod
    def from_descriptor(cls, descriptor: int, number: int, count: int) -> Siblings:
        """Map the memory behind a descriptor, which may be closed afterwards. `number` counts from 0."""
        return cls(mmap.mmap(descriptor, SIZE), number, count)

    def show(self, position: int) -> None:
        """This process shows `position`, or is about to answer somebody about it."""
        self._words[self.number] = max(self._words[self.number], position)

    def tell(self, serial: int) -> None:
        """Every notification of this process up to `serial` stands."""
        self._words[MOST + self.number] = max(self._words[MOST + self.number], serial)


class NoSiblings:
    """A process by itself: there is nobody to show anything to."""

    __slots__ = ()

    name = ""
    number = 0
    shown: Sequence[int] = ()
    told: Sequence[int] = ()

    def page(self) -> bytes:
        return b""

    def show(self, position: int) -> None:
        """Nobody looks."""

    def tell(self, serial: int) -> None:
        """Nobody looks."""


def shared_page() -> int:
    """A descriptor of anonymous memory for `Siblings.from_descriptor`, which child processes may inherit."""
    descriptor = os.memfd_create("lares-siblings", 0)
    os.ftruncate(descriptor, SIZE)
    os.pwrite(descriptor, secrets.randbits(62).to_bytes(8, sys.byteorder), _NAME * 8)
    return descriptor
