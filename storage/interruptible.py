# SPDX-License-Identifier: Apache-2.0
"""Blocking psycopg2 calls that a signal's handler can end, and that don't wait for ever to be connected.

libpq's own blocking calls return to Python only when they are done: while a migration waits for another process's,
or a connection for a host that doesn't answer, no handler would run. Owns the waiting during start-up; once the
reactor runs, `storage.database` waits without blocking.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg2
from psycopg2.extensions import (
    POLL_OK,
    POLL_READ,
    POLL_WRITE,
    STATUS_SETUP,
    connection,
    get_wait_callback,
    set_wait_callback,
)

CONNECT_TIMEOUT: Final = 10.0
"""Seconds. libpq's `connect_timeout` has no effect on connections that are waited for in this way."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block, every blocking psycopg2 call of the process waits in Python.

    An exception a signal's handler raises ends the call and its connection. A connection that isn't there after
    `CONNECT_TIMEOUT` raises `psycopg2.OperationalError`.
    """
    before = get_wait_callback()
    set_wait_callback(_wait)
    try:
        yield
    finally:
        set_wait_callback(before)


def _wait(waiting: connection) -> None:
    deadline = time.monotonic() + CONNECT_TIMEOUT if waiting.status == STATUS_SETUP else None
    while (state := waiting.poll()) != POLL_OK:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise psycopg2.OperationalError(f"the host gave no answer within {CONNECT_TIMEOUT:.0f} s")
        reading = [waiting.fileno()] if state == POLL_READ else []
        writing = [waiting.fileno()] if state == POLL_WRITE else []
        select.select(reading, writing, [], left)
