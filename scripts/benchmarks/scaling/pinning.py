# SPDX-License-Identifier: Apache-2.0
"""Which cores processes may run on: the workers on one, whatever loads them and serves them on the others."""

from __future__ import annotations

import os
from collections.abc import Set as AbstractSet

import psutil

from scripts.benchmarks.servers import Homeserver


def workers_and_others() -> tuple[AbstractSet[int], AbstractSet[int]] | None:
    """A core for the workers and the cores for all else; None where there is one core only, or no way to choose."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    first, *others = sorted(os.sched_getaffinity(0))
    return ({first}, set(others)) if others else None


def pin(servers: list[Homeserver], workers: AbstractSet[int], others: AbstractSet[int]) -> None:
    """Keep the servers' processes on the one, their databases and this process on the others.

    Threads and processes that they start later inherit it.
    """
    for server in servers:
        pin_tree(server.process.pid, workers)
        pin_tree(server.cluster.process.pid, others)
    pin_tree(os.getpid(), others, children=False)


def pin_tree(pid: int, cores: AbstractSet[int], *, children: bool = True) -> None:
    """Keep all threads of a process and of those below it on the cores."""
    process = psutil.Process(pid)
    # Once more, for what was started by a thread that had not had its turn yet.
    for _ in range(2):
        for each in (process, *(process.children(recursive=True) if children else ())):
            try:
                for thread in each.threads():
                    os.sched_setaffinity(thread.id, cores)
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
