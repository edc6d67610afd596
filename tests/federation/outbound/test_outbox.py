# SPDX-License-Identifier: Apache-2.0
"""Fleeting units that are handed to the process that serves their server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import orjson
from twisted.internet.defer import Deferred

from federation.outbound import OutgoingEdu
from federation.outbound.outbox import MOST_UNTOLD, EduStore, Outbox
from federation.outbound.transaction import Edu
from storage.database import DatabaseUnavailable

A = "a.test"


class _Elsewhere:
    """All servers are another process's, and well; what it is told is answered when the test says so."""

    def __init__(self) -> None:
        self.told: list[tuple[list[object], Deferred[None]]] = []

    def serves(self, _name: str) -> bool:
        return False

    def kept(self, _names: Iterable[str]) -> None: ...

    def pass_on(self, _name: str, _key: tuple[str, str], _edu: Edu) -> None: ...

    def is_well(self, _name: str) -> bool:
        return True

    may_try = is_well

    async def notify(self, _channel: str, payloads: Sequence[str]) -> None:
        assert len({*payloads}) == len(payloads), "Postgres tells the same only once"
        answer = Deferred[None]()
        units = [orjson.loads(payload)["unit"] for payload in payloads]
        self.told.append(([orjson.loads(content)["n"] for _, _, content in units], answer))
        await answer


def outbox(elsewhere: _Elsewhere) -> Outbox:
    return Outbox(
        server_name="localhost",
        origin="test",
        store=cast(EduStore, None),
        queues=elsewhere,
        availability=elsewhere,
        notify=elsewhere.notify,
    )


def unit(n: object) -> OutgoingEdu:
    return OutgoingEdu(A, "m.typing", {"n": n}, "key")


async def test_fleeting_units_are_told_in_their_order() -> None:
    """One telling at a time: two would go through different connections, and the older might come last."""
    elsewhere = _Elsewhere()
    box = outbox(elsewhere)
    for n in (1, 2, 1, 2):
        box.pass_on([unit(n)])
    told, answer = elsewhere.told.pop()
    assert (told, elsewhere.told) == ([1], [])
    answer.errback(DatabaseUnavailable("for a moment"))
    told, answer = elsewhere.told.pop()
    assert (told, elsewhere.told) == ([2, 1, 2], [])
    answer.callback(None)
    assert not elsewhere.told
    box.pass_on([unit(3)])
    assert elsewhere.told[0][0] == [3]


async def test_what_waits_to_be_told_is_bounded() -> None:
    """The oldest is dropped: what is fleeting is worth less the older it is."""
    elsewhere = _Elsewhere()
    box = outbox(elsewhere)
    for n in range(MOST_UNTOLD + 2):
        box.pass_on([unit(n)])
    numbers: list[object] = []
    while elsewhere.told:
        told, answer = elsewhere.told.pop()
        numbers += told
        answer.callback(None)
    assert numbers == [0, *range(2, MOST_UNTOLD + 2)]
