# SPDX-License-Identifier: Apache-2.0
"""Who serves, as shared memory: the parent writes who there is, each worker how many connections it has.

Owns that memory. A seat is a worker's number; its five words are the process id, whether it accepts connections, how
many it has, how many it has accepted in all, and how many turns of its reactor it has counted. Every word has one
writer at a time and is an aligned machine word, so that nothing is locked. What the workers' caches know of each other
is `homeserver.siblings`', not this.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import Final

_WORD: Final = 8
_HEAD: Final = 4
_EACH: Final = 5
_RESTARTS, _WANTED = 0, 1
_PID, _ACCEPTING, _CONNECTIONS, _ACCEPTED, _BEATS = range(_EACH)


def new_roster(seats: int) -> int:
    """The descriptor of an empty one, which workers may inherit."""
    descriptor = os.memfd_create("lares-roster", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, _WORD * (_HEAD + _EACH * seats))
    return descriptor


class Roster:
    """The memory behind a descriptor, mapped."""

    def __init__(self, descriptor: int, seats: int) -> None:
        self._words = memoryview(mmap.mmap(descriptor, _WORD * (_HEAD + _EACH * seats))).cast("Q")
        self._seats = seats

    # The parent's.

    def seat(self, number: int, pid: int) -> None:
        """A worker has begun; it accepts nothing yet."""
        self._set(number, pid)

    def admit(self, number: int) -> None:
        """It accepts connections."""
        self._words[_at(number) + _ACCEPTING] = 1

    def dismiss(self, number: int) -> None:
        """It accepts none any more."""
        self._words[_at(number) + _ACCEPTING] = 0

    def clear(self, number: int) -> None:
        """It has ended."""
        self._set(number, 0)

    def beats(self, number: int) -> int:
        """How many turns it has counted."""
        return self._words[_at(number) + _BEATS]

    def count_restart(self) -> None:
        """One that died is followed by another."""
        self._words[_RESTARTS] += 1

    def want(self, workers: int) -> None:
        """So many there should be."""
        self._words[_WANTED] = workers

    # A worker's.

    def tell(self, number: int, connections: int) -> None:
        """That worker has so many."""
        self._words[_at(number) + _CONNECTIONS] = connections

    def accepted(self, number: int, count: int) -> None:
        """That worker accepted so many more."""
        self._words[_at(number) + _ACCEPTED] += count

    def beat(self, number: int) -> None:
        """That worker's reactor has turned."""
        self._words[_at(number) + _BEATS] += 1

    # Everybody's.

    @property
    def wanted(self) -> int:
        """How many workers there should be."""
        return self._words[_WANTED]

    @property
    def restarts(self) -> int:
        """How often one that died was followed by another."""
        return self._words[_RESTARTS]

    def accepting(self) -> Iterator[tuple[int, int, int]]:
        """Of each that accepts connections its number, how many it has, how many it has accepted."""
        words = self._words
        for number in range(self._seats):
            at = _at(number)
            if words[at + _ACCEPTING]:
                yield number, words[at + _CONNECTIONS], words[at + _ACCEPTED]

    def living(self) -> list[int]:
        """The numbers of those whose process lives, as far as the parent knows."""
        return [number for number in range(self._seats) if self._words[_at(number) + _PID]]

    def _set(self, number: int, pid: int) -> None:
        at = _at(number)
        for word in (_ACCEPTING, _CONNECTIONS, _ACCEPTED, _BEATS):
            self._words[at + word] = 0
        self._words[at + _PID] = pid


class Seat:
    """The roster as one worker uses it: see `homeserver.web.fair_port.Crowd`."""

    def __init__(self, roster: Roster, number: int) -> None:
        self._roster = roster
        self._number = number

    def others(self) -> list[int]:
        """How many connections each of the others has that accept at present."""
        return [held for number, held, _ in self._roster.accepting() if number != self._number]

    def taken(self) -> tuple[int, dict[int, int]]:
        """How many connections this worker has accepted in all, and each of the others that accept at present."""
        counts = {number: count for number, _, count in self._roster.accepting()}
        return counts.pop(self._number, 0), counts

    def tell(self, connections: int) -> None:
        """This worker has so many."""
        self._roster.tell(self._number, connections)

    def accepted(self, count: int) -> None:
        """This worker accepted so many more."""
        self._roster.accepted(self._number, count)

    def beat(self) -> None:
        """This worker's reactor has turned."""
        self._roster.beat(self._number)


def _at(number: int) -> int:
    return _HEAD + _EACH * number
