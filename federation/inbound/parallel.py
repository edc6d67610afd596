# SPDX-License-Identifier: Apache-2.0
"""Doing many things at once, but not too many. Owns nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from twisted.internet.defer import Deferred, DeferredList

T = TypeVar("T")


async def in_parallel(work: Callable[[T], Awaitable[object]], items: Iterable[T], width: int) -> None:
    """Do the work for each item, at most `width` at once.

    Once one fails no further is begun; when those under way have ended, the first failure is raised.
    """
    left = iter(items)
    failures: list[BaseException] = []

    async def worker() -> None:
        for item in left:
            if failures:
                return
            try:
                await work(item)
            except BaseException as error:
                failures.append(error)

    await DeferredList([Deferred.fromCoroutine(worker()) for _ in range(width)])
    if failures:
        raise failures[0]
