# SPDX-License-Identifier: Apache-2.0
"""One item that a server does not take never holds up the others (as in CVE-2023-32323, -2025-30355, -2025-61672)."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from federation.outbound import OutgoingEdu
from storage.database import Database
from tests.federation.outbound.outbound_fixture import Process, Transaction, refusal

A, B = "a.test", "b.test"


def refusing(status: int, *bad: str) -> Any:
    def refuse(name: str, transaction: Transaction) -> Exception | None:
        units = [edu["content"].get("name") for edu in transaction.edus]
        return refusal(name, status) if {*transaction.bodies, *units} & set(bad) else None

    return refuse


@pytest.mark.parametrize("status", [400, 401, 413])
async def test_an_event_that_is_refused_is_dropped_alone(
    database: Database, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """With a line in the log; what stands before and behind it arrives in order, and only once."""
    process = await Process.open(database)
    room = await process.room_with(A, B)
    process.others.away.add(A)
    said = [str(n) for n in range(8)]
    await process.say(room, *said)
    await process.settle()
    process.others.away.clear()
    process.others.refuse = refusing(status, "3", "5")
    with caplog.at_level(logging.WARNING):
        await process.pass_time(75)
        await process.settle()
        await process.say(room, "8")
        await process.settle()
    assert process.others.bodies(A) == ["0", "1", "2", "4", "6", "7", "8"]
    assert [r.message for r in caplog.records].count(
        "another server refuses this and takes everything else; dropped"
    ) == 2
    assert process.outbound.availability.is_well(A)
    await process.stop()


async def test_a_500_is_not_the_items_fault_until_it_comes_again_and_again(database: Database) -> None:
    """A database that was overloaded for a moment costs nobody a message."""
    process = await Process.open(database)
    room = await process.room_with(A)
    process.others.refuse = refusing(500, "bad")
    await process.say(room, "bad", "good")
    await process.settle()
    for pause in (75, 150):
        await process.pass_time(pause)
        await process.settle()
        assert process.others.bodies(A) == []
    await process.pass_time(300)
    await process.settle()
    assert process.others.bodies(A) == ["good"]
    await process.stop()


@pytest.mark.parametrize("status", [404, 429, 500, 503])
async def test_nothing_is_dropped_where_the_server_refuses_everything(
    database: Database, status: int
) -> None:
    """Then the fault is its own."""
    process = await Process.open(database)
    room = await process.room_with(A)
    process.others.refuse = lambda name, _transaction: refusal(name, status)
    await process.say(room, "1", "2")
    await process.settle()
    for _ in range(6):
        await process.pass_time(1000)
        await process.settle()
    process.others.refuse = lambda _name, _transaction: None
    await process.pass_time(8000)
    await process.settle()
    assert process.others.bodies(A) == ["1", "2"]
    await process.stop()


async def test_a_unit_that_is_refused_is_dropped_alone(database: Database) -> None:
    """And is not kept any longer."""
    process = await Process.open(database)
    process.others.refuse = refusing(400, "bad")
    names = ["one", "bad", "two"]
    await process.outbound.outbox.keep([OutgoingEdu(A, "m.direct_to_device", {"name": n}) for n in names])
    await process.settle()
    assert [content["name"] for content in process.others.edus(A)] == ["one", "two"]
    assert await database.fetch("kept", "SELECT id FROM outgoing_edus") == []
    await process.stop()


async def test_a_unit_that_has_no_canonical_form_is_never_queued(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The others of the same call are."""
    process = await Process.open(database)
    unfit: list[Any] = [1.5, float("nan"), 2**60, "\ud800", "x" * 2**21, {1: 2}, object()]
    units = [
        *(OutgoingEdu(A, "m.test", {"name": value}) for value in unfit),
        OutgoingEdu(A, "m.test", {"name": "fit"}),
        OutgoingEdu("a\0.test", "m.test", {"name": "nul"}),
        OutgoingEdu(A, "m.test", {"name": "nul in key"}, "a\0"),
    ]
    await process.outbound.outbox.keep(units)
    process.outbound.outbox.pass_on(units)
    await process.settle()
    assert sorted(content["name"] for content in process.others.edus(A)) == ["fit", "fit"]
    await process.stop()
