# SPDX-License-Identifier: Apache-2.0
"""What `lares federation` says of the database it finds, and what it does there.

Owns the words. Apart from the command itself because it brings along what other commands do without.
"""

import argparse
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from msgspec import to_builtins

from homeserver.cli.running_database import running_database
from homeserver.config import Config
from storage.federation_status import (
    MOST_COUNTED,
    DestinationStatus,
    SendingStatus,
    destination_status,
    retry_now,
    sending_status,
)


def act(arguments: argparse.Namespace, config: Config, name: str | None) -> int:
    """Carry out the command; its exit code. Raises StartRefused."""
    with running_database(config) as dsn:
        return _act(arguments, dsn, name)


def _act(arguments: argparse.Namespace, dsn: str, name: str | None) -> int:
    if arguments.action == "retry":
        assert name is not None
        known = retry_now(dsn, name)
        print(f"{name} is tried now" if known else f"{name} is in no trouble that is known of")
        return 0
    if name is None:
        status = sending_status(dsn)
        _print_all([to_builtins(status)] if arguments.json else list(_sentences(status)), arguments.json)
        return 0
    one = destination_status(dsn, name)
    if arguments.json:
        _print_all([None if one is None else to_builtins(one)], True)
    elif one is None:
        print(f"{name}: nothing is known of it; it was never sent anything, or never failed")
    else:
        _print_all(list(_about(one)), False)
    return 0


def _print_all(parts: list[object], as_json: bool) -> None:
    for part in parts:
        print(json.dumps(part, indent=2) if as_json else part)


def _sentences(status: SendingStatus) -> Iterator[str]:
    if status.processes == 0:
        yield "Nothing is being sent: no server process runs, or federation is off."
    else:
        yield f"{_count(status.processes, 'process', 'processes')} send{'s' * (status.processes == 1)}."
        if status.unserved_shards:
            yield f"{status.unserved_shards} of 64 parts of the servers wait to be taken over by a process."
    yield (
        f"{_count(status.failing, 'server is', 'servers are')} not reached, "
        f"{_count(status.refusing, 'refuses', 'refuse')} what is sent, "
        f"{_count(status.behind, 'is', 'are')} behind."
    )
    if status.waiting_edus:
        yield (
            f"{_count(status.waiting_edus, 'unit', 'units')} (keys, device lists) "
            f"wait{'s' * (status.waiting_edus == 1)} to be delivered."
        )
    for each in status.destinations:
        yield from _about(each)
    listed = len(status.destinations)
    if listed < max(status.failing, status.refusing, status.behind):
        yield f"Only the first {listed} are shown."


def _about(status: DestinationStatus) -> Iterator[str]:
    parts = []
    now = int(time.time() * 1000)
    if status.failures:
        tries = _count(status.failures, "attempt", "attempts")
        parts.append(f"not reached since {_when(status.failing_since)} ({tries})")
    if status.refusals:
        parts.append(f"answers transactions with an error ({status.refusals} in a row)")
    if not parts:
        parts.append("no trouble")
    if status.reason and (status.failures or status.refusals):
        parts.append(f"last: {''.join(c if c.isprintable() else '?' for c in status.reason)}")
    again = max(status.retry_at, status.send_again_at)
    if status.failures or status.refusals:
        parts.append(f"next attempt at {_when(again)}" if again > now else "next attempt is due")
    if status.last_success is not None:
        parts.append(f"last delivered to about {_when(status.last_success)}")
    if status.waiting_events:
        more = "at least " if status.waiting_events >= MOST_COUNTED else ""
        parts.append(f"{more}{_count(status.waiting_events, 'event waits', 'events wait')}")
    elif status.delivered_up_to is not None and status.waiting_events is None:
        parts.append(f"behind since position {status.delivered_up_to}")
    if status.waiting_edus:
        parts.append(f"{_count(status.waiting_edus, 'unit waits', 'units wait')}")
    yield f"{status.server_name}: {'; '.join(parts)}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _when(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "an unknown time"
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
