# SPDX-License-Identifier: Apache-2.0
"""Calls with users of other servers, and memberships that others set."""

from __future__ import annotations

from typing import Any

from homeserver.calls.history.history import CallHistory
from storage.call_events import CallEventStore
from storage.database import Database
from tests.rooms.intake.dag import clock, ids
from tests.rooms.intake.intake_fixture import ALICE, DAVE, Process, ends


async def test_a_peer_on_another_server(database: Database) -> None:
    """Their invite rings here, and is missed when they hang up; their group call is seen by its state."""
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)

    async def nobody(_user_id: str) -> frozenset[str]:
        return frozenset()

    engine = process.engine
    history = CallHistory(
        store=CallEventStore(database),
        user_rooms=engine.user_rooms,
        gate=engine.gate,
        ignored=nobody,
        position=lambda: engine.stream.position,
        now=clock,
    )

    async def call(verb: str, **content: Any) -> None:
        said = {"call_id": "c1", "party_id": "P", "version": "1", **content}
        event = dag.write(DAVE, f"m.call.{verb}", said, prev=ends(room))
        await process.accept(room, event)

    await call("invite", lifetime=60_000)
    (told,) = (await history.page(ALICE, limit=5)).calls
    assert (told.call.peer, told.call.state, told.call.outgoing) == (DAVE, "ringing", False)
    await call("hangup", reason="invite_timeout")
    page = await history.page(ALICE, limit=5)
    assert page.calls[0].call.outcome == "missed"
    member = {"application": "m.call", "call_id": "", "device_id": "D"}
    joined = dag.write(DAVE, "m.call.member", member, state_key=f"_{DAVE}_D", prev=ends(room))
    await process.accept(room, joined)
    gone = dag.write(DAVE, "m.call.member", {}, state_key=f"_{DAVE}_D", prev=ids(joined))
    await process.accept(room, gone)
    since = await history.page(ALICE, limit=5, since=page.since)
    assert [(each.call.kind, each.call.outcome) for each in since.calls] == [("group", "missed")]
