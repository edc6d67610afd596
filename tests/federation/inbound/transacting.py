# SPDX-License-Identifier: Apache-2.0
"""Sending transactions to the intake, by two servers that are in two rooms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from homeserver.protocol.events import Event
from storage.database import Database
from tests.federation.inbound.in_memory import Inbound
from tests.federation.servers import RemoteServer

HYDRA, EVIL = RemoteServer("hydra.test"), RemoteServer("evil.test")
ROOM, OTHER = "!room:hydra.test", "!other:hydra.test"


def inbound(database: Database, **how: Any) -> Inbound:
    """With two rooms that this server and both others are in."""
    made = Inbound(database, HYDRA, EVIL, **how)
    for room_id in (ROOM, OTHER):
        made.intake.room(room_id, "11", HYDRA.name, EVIL.name)
    return made


def event(body: str = "hello", *, room_id: str = ROOM, by: RemoteServer = HYDRA, **more: Any) -> Event:
    return by.pdu(version="11", room_id=room_id, content={"body": body}, **more).event


async def send(
    inbound: Inbound,
    *events: Event | Mapping[str, Any],
    txn_id: str = "1",
    by: RemoteServer = HYDRA,
    edus: Sequence[object] = (),
    address: str = "192.0.2.1",
) -> dict[str, Any]:
    """What the events of the answer got."""
    pdus = [each.pdu if isinstance(each, Event) else each for each in events]
    body = {"origin": by.name, "origin_server_ts": 1, "pdus": pdus, "edus": list(edus)}
    answer: dict[str, Any] = orjson.loads(
        await inbound.transactions.receive(by.name, txn_id, body, address=address)
    )
    assert set(answer) == {"pdus"}
    results: dict[str, Any] = answer["pdus"]
    return results
