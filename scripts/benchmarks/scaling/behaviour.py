# SPDX-License-Identifier: Apache-2.0
"""What people do and what stands under the servers: the assumptions of the model, each a flag of its command.

None of it is measured here. What is known of large services is noted beside the figure; the rest is a guess that an
operator replaces with figures of their own, which `/metrics` has.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

T = TypeVar("T")


def _assumed(default: float, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """Of the people, on average."""

    daily_active: float = _assumed(0.3, "share of accounts that are used on a day; assumption")
    online: float = _assumed(0.1, "share of accounts that wait for news in the busiest hour; assumption")
    devices: float = _assumed(1.5, "connections of somebody who is online; assumption")
    web_sockets: float = _assumed(0.0, "share of those that are WebSockets; clients of today use long-polls")
    messages: float = _assumed(
        50,
        "messages per active user and day; WhatsApp told of 100 billion a day among 2 billion users in 2020",
    )
    peak: float = _assumed(3, "the busiest hour as a multiple of the mean; assumption")
    receipts: float = _assumed(2, "read receipts written per message; assumption")
    ephemeral: float = _assumed(
        2, "deliveries of typing and receipts per delivery of a message, as dear as one; assumption"
    )
    room_members: float = _assumed(20, "members of the room of a message; assumption")
    members_online: float = _assumed(0.3, "share of those members who are online; assumption")
    rooms: float = _assumed(10, "rooms of a user that are written to on a day; assumption")
    opens: float = _assumed(20, "times a day that an active user's client comes back and syncs; assumption")
    pages: float = _assumed(10, "pages of history that an active user reads on a day; assumption")
    first_syncs: float = _assumed(0.05, "first syncs per active user and day; assumption")
    key_messages: float = _assumed(
        0.05, "messages to 20 devices, with a claim of keys before each, per message; assumption"
    )
    federated: float = _assumed(0.2, "share of messages in rooms of other servers too; assumption")
    servers: float = _assumed(5, "other servers in such a room; assumption")
    incoming: float = _assumed(2, "events that come from others per own message in such rooms; assumption")
    media: float = _assumed(0.3, "MiB that an active user uploads on a day; assumption")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What stands under the servers, and how full it may be."""

    flush: float = _assumed(0.5, "milliseconds until the log is durable on the database's disk")
    standby: float = _assumed(0.0, "milliseconds more until a synchronous standby has it; 0: there is none")
    speed: float = _assumed(1.0, "how many times faster a core is than the one measured on")
    worker_use: float = _assumed(0.6, "share of a core that a worker may use in the busiest hour")
    database_use: float = _assumed(0.6, "share of the database's cores that may be used then")
    database_cores: float = _assumed(64, "cores of the largest database server that can be had")
    database_connections: float = _assumed(2000, "connections that it may have")
    stream_use: float = _assumed(
        0.7, "share of what full commits could take that may be written to the stream"
    )
    commit_p99: float = _assumed(250, "milliseconds within which 99 of 100 commits must stand")
    foreign: float = _assumed(
        0.2, "milliseconds of CPU that another process's commit costs a worker; see two-workers"
    )
    intake: float = _assumed(
        0.34, "milliseconds of a worker's CPU per event from other servers; docs/performance.md"
    )
    outbound: float = _assumed(
        0.2, "milliseconds of a worker's CPU per event and server it is sent to; assumption"
    )
    budget: float = _assumed(
        128, "MiB of caches of a worker (`memory_budget`), beyond which rooms leave memory"
    )


def add_flags(parser: argparse.ArgumentParser, kind: type[Behaviour] | type[Ground]) -> None:
    """A flag for each field."""
    group = parser.add_argument_group(kind.__name__.lower())
    for each in fields(kind):
        name = each.name.replace("_", "-")
        help_text = f"{each.metadata['doc']} (default: {each.default:g})".replace("%", "%%")
        group.add_argument(f"--{name}", type=float, default=each.default, metavar="X", help=help_text)


def from_flags(kind: type[T], options: argparse.Namespace) -> T:
    """What the flags say."""
    return kind(**{each.name: getattr(options, each.name) for each in fields(kind)})  # type: ignore[arg-type]
