# SPDX-License-Identifier: Apache-2.0
"""The buckets of rate limits that the processes of one machine have together, in shared memory.

Owns that memory: a table of fixed size, in which a key has its place in one of a few slots that its digest says. Of a
bucket there is one number, when it is full again, so that a request costs no message to anybody. A slot whose bucket is
full is free; where all are taken, that which is full soonest goes.

Nothing is locked. Two processes that take of one bucket in the same microsecond may count one token for two, and that
take one slot may give a bucket the other's time once: a brake may be that wrong. The digest is keyed, so that nobody
can choose a name that shares somebody's bucket.
"""

from __future__ import annotations

import mmap
import os
import secrets
from hashlib import blake2b
from typing import Final

_SETS: Final = 8192
_WAYS: Final = 8
_WORD: Final = 8
_SLOT: Final = 2
"""Words: the digest, 0 if there is none, and the time."""
_SLOTS_END: Final = _SETS * _WAYS * _SLOT * _WORD
_KEY: Final = 16
_SIZE: Final = _SLOTS_END + _KEY


def new_bucket_table() -> int:
    """The descriptor of an empty one, which processes may inherit."""
    descriptor = os.memfd_create("lares-limits", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, _SIZE)
    os.pwrite(descriptor, secrets.token_bytes(_KEY), _SLOTS_END)
    return descriptor


class BucketTable:
    """The memory behind a descriptor, mapped. Times are of `time.monotonic`, which is one clock for all processes."""

    def __init__(self, descriptor: int) -> None:
        memory = memoryview(mmap.mmap(descriptor, _SIZE))
        self._tags = memory[:_SLOTS_END].cast("Q")
        self._times = memory[:_SLOTS_END].cast("d")
        self._key = bytes(memory[_SLOTS_END:])

    def of_class(self, name: str) -> ClassBuckets:
        """The buckets of one class of limits."""
        return ClassBuckets(name, self._tags, self._times, self._key)


class ClassBuckets:
    """See `homeserver.web.rate_limits.Memory`."""

    __slots__ = ("_asked", "_at", "_digest", "_tag", "_tags", "_times")

    def __init__(self, name: str, tags: memoryview[int], times: memoryview[float], key: bytes) -> None:
        self._digest = blake2b(name.encode() + b"\0", digest_size=_WORD, key=key)
        self._tags = tags
        self._times = times
        self._asked = ""
        self._tag = 0
        self._at = 0

    def full_at(self, key: str) -> float:
        """When the bucket is full; 0 if nothing is known of it."""
        digest = self._digest.copy()
        digest.update(key.encode())
        tag = self._tag = int.from_bytes(digest.digest(), "little") or 1
        tags, first = self._tags, tag % _SETS * _WAYS * _SLOT
        self._asked = key
        for at in range(first, first + _WAYS * _SLOT, _SLOT):
            if tags[at] == tag:
                self._at = at
                return self._times[at + 1]
        self._at = min(range(first, first + _WAYS * _SLOT, _SLOT), key=self._time_of)
        return 0.0

    def keep(self, key: str, full_at: float, now: float) -> None:
        """Remember it. What was asked for last is meant."""
        assert key == self._asked
        self._tags[self._at] = self._tag
        self._times[self._at + 1] = full_at

    def _time_of(self, at: int) -> float:
        return self._times[at + 1]
