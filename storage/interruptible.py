# SPDX-License-Identifier: Apache-2.0
"""Blocking psycopg2 calls that can be ended from outside, and that don't wait for ever to be connected.

libpq's own blocking calls return to Python only when they are done: while a migration waits for another process's,
or a connection for a host that doesn't answer, no signal would be heard. Owns the waiting during start-up; once the
reactor runs, `storage.database` waits without blocking.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
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


_LOOK: Final = 0.1
"""Seconds between looks at whether to go on."""


@contextmanager
def interruptible(check: Callable[[], None]) -> Iterator[None]:
    """Within the block, every blocking psycopg2 call of the process calls `check` now and then.

    What `check` raises ends the call and its connection. A connection that isn't there after `CONNECT_TIMEOUT` raises
    `psycopg2.OperationalError`.
    """

    def wait(waiting: connection) -> None:
        deadline = time.monotonic() + CONNECT_TIMEOUT if waiting.status == STATUS_SETUP else None
        while (state := waiting.poll()) != POLL_OK:
            check()
            if deadline is not None and time.monotonic() > deadline:
                raise psycopg2.OperationalError(f"the host gave no answer within {CONNECT_TIMEOUT:.0f} s")
            reading = [waiting.fileno()] if state == POLL_READ else []
            writing = [waiting.fileno()] if state == POLL_WRITE else []
            while not any(select.select(reading, writing, [], _LOOK)):
                check()
                if deadline is not None and time.monotonic() > deadline:
                    break

    before = get_wait_callback()
    set_wait_callback(wait)
    try:
        yield
    finally:
        set_wait_callback(before)
