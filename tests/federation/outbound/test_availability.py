# SPDX-License-Identifier: Apache-2.0
"""What several processes say of one server at once."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from federation.destinations import WRITE_PAUSE, Availability
from storage.database import DatabaseUnavailable
from storage.destinations import Standing

A = "a.test"
NOW = 1_700_000_000_000
DAY = 86_400_000


class _Store:
    """Notes what is written; a writing is answered when the test says so."""

    def __init__(self) -> None:
        self.written: list[tuple[list[Standing], Deferred[None]]] = []

    async def in_trouble(self, _limit: int) -> list[Standing]:
        return []

    async def put_standings(self, standings: Sequence[Standing]) -> None:
        answer = Deferred[None]()
        self.written.append(([*standings], answer))
        await answer

    async def forget_old(self, _now: int) -> int:
        return 0


def build() -> tuple[Clock, _Store, Availability]:
    clock, store = Clock(), _Store()
    return (
        clock,
        store,
        Availability(origin="here", store=store, scheduler=clock, now=lambda: NOW, random=lambda: 0.0),
    )


def told(failures: int, retry_at: int) -> str:
    """As another process tells of A."""
    since = NOW if failures else None
    return orjson.dumps({"origin": "there", "standings": [[A, failures, since, retry_at, 0, 0]]}).decode()


async def test_a_server_that_was_reached_here_is_not_given_up_for_another_process() -> None:
    """What that one says was found out before it could hear of it; it soon does."""
    clock, store, availability = build()
    availability.delivered(A)
    availability.heard(told(20, NOW + DAY))
    assert availability.is_well(A)
    clock.advance(WRITE_PAUSE)
    ((written, _),) = store.written
    assert written == [Standing(A, last_success=NOW)]


async def test_a_server_that_another_process_reached_is_not_given_up_here() -> None:
    clock, store, availability = build()
    tried: list[str] = []
    availability.watch(tried.append)
    availability.failed(A)
    availability.heard(told(0, 0))
    assert (availability.is_well(A), tried) == (True, [A])
    clock.advance(WRITE_PAUSE)
    assert [each for portion, _ in store.written for each in portion] == []


@pytest.mark.parametrize("ours_fails", [True, False])
async def test_what_could_not_be_written_gives_way_to_what_was_heard_since(ours_fails: bool) -> None:
    """It is not written again; without such news it is."""
    clock, store, availability = build()
    if ours_fails:
        availability.failed(A)
    else:
        availability.delivered(A)
    clock.advance(WRITE_PAUSE)
    store.written.pop()[1].errback(DatabaseUnavailable("for a moment"))
    clock.advance(WRITE_PAUSE)
    (again,), answer = store.written.pop()
    assert again.is_well is not ours_fails
    availability.heard(told(0, 0) if ours_fails else told(5, NOW + DAY))
    answer.errback(DatabaseUnavailable("for a moment"))
    clock.advance(WRITE_PAUSE)
    assert not store.written
    assert availability.is_well(A) is ours_fails
