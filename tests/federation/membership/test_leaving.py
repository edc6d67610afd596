# SPDX-License-Identifier: Apache-2.0
"""Rejecting invites of other servers while answers are slow, and the user is invited again or comes in meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from federation.membership import leaving
from federation.membership.asking import first_to_help
from federation.membership.leaving import RemoteLeaving
from federation.membership.templates import Templates
from homeserver.errors import Forbidden
from homeserver.rooms.engine.working import Signer
from storage.database import Database
from tests.federation.membership.membership_fixture import Federation
from tests.federation.membership.resident import Resident
from tests.federation.membership.test_calling import VERSIONS, invite_again, invited_room
from tests.federation.servers import RemoteServer, now_ms
from tests.rooms.arrival.arrival_fixture import KEY, OURS
from tests.rooms.arrival.remote_room import RemoteRoom
from tests.rooms.engine_fixture import ALICE
from tests.rooms.services_fixture import alice


@pytest.fixture
def hydra() -> RemoteServer:
    return RemoteServer("hydra.test")


class Silent:
    """Alice rejects an invite by way of a silent server; one that answers may be asked after it."""

    def __init__(self, federation: Federation, room: RemoteRoom, monkeypatch: pytest.MonkeyPatch) -> None:
        self._room = room
        self._silence: Deferred[None] = Deferred()
        self._asked: Deferred[None] = Deferred()
        self._ended: Deferred[None] = Deferred()
        self._clock = Clock()
        self._remote = RemoteLeaving(
            calls=federation.calls,
            out_of_band=federation.out_of_band,
            templates=Templates(signer=Signer(OURS, KEY), now=now_ms),
            server_name=OURS,
            scheduler=self._clock,
        )
        federation.network.before = self._hold
        monkeypatch.setattr(leaving, "first_to_help", self._first_to_help)

    async def reject(self) -> str | None:
        """What the user is told when they have waited long enough."""
        servers, content = [self._room.server.name, "other.test"], {"membership": "leave"}
        leave = Deferred.fromCoroutine(
            self._remote.leave(ALICE, self._room.id, servers=servers, content=content)
        )
        await self._asked
        self._clock.advance(leaving.PATIENCE + 1)
        return await leave

    async def go_on(self) -> None:
        """The silent server fails, and the other is asked; until all has ended."""
        self._room.server.reachable = False
        self._silence.callback(None)
        await self._ended

    async def _hold(self, destination: str, _method: str, target: str) -> None:
        if "make_leave" in target and destination == self._room.server.name:
            self._asked.callback(None)
            await self._silence

    async def _first_to_help(self, *asking: Any, **more: Any) -> Any:
        try:
            return await first_to_help(*asking, **more)
        finally:
            self._ended.callback(None)


@pytest.mark.parametrize("version", VERSIONS)
async def test_nobody_waits_long_for_a_silent_server(
    database: Database,
    hydra: RemoteServer,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
) -> None:
    """After a few seconds the user is out; that others are told of it later changes nothing here."""
    other = RemoteServer("other.test")
    federation = await Federation.open(database, hydra, other)
    room = await invited_room(federation, hydra, version)
    resident = Resident(other, room)
    silent = Silent(federation, room, monkeypatch)
    event_id = await silent.reject()
    assert event_id
    assert (await federation.house.head(room.id)).membership(ALICE) == "leave"
    await silent.go_on()
    assert [event.content["membership"] for event in resident.taken] == ["leave"]
    standing = await federation.out_of_band.standing(room.id, ALICE)
    assert standing == ("leave", event_id)


@pytest.mark.parametrize("heard", ["here", "there", "by both"])
@pytest.mark.parametrize("newer", ["invite", "join"])
async def test_who_is_back_meanwhile_does_not_leave(
    database: Database,
    hydra: RemoteServer,
    monkeypatch: pytest.MonkeyPatch,
    newer: str,
    heard: str,
) -> None:
    """Invited again, or in by another server, while one was silent: the leave they were told of is told nobody."""
    other = RemoteServer("other.test")
    federation = await Federation.open(database, hydra, other)
    room = await invited_room(federation, hydra)
    resident = Resident(other, room)
    silent = Silent(federation, room, monkeypatch)
    assert await silent.reject()
    old = room.template(ALICE, "leave")
    if newer == "invite" and heard != "there":
        await invite_again(federation, hydra, room)
    elif heard != "there":
        await federation.joining.join(ALICE, room.id, servers=["other.test"], content={"membership": "join"})
        resident.taken.clear()
    else:
        room.member(ALICE, newer, sender=hydra.user() if newer == "invite" else ALICE, by=federation.us)
    if heard == "here":
        resident.twist_template = lambda answer: answer.update(event=old)
    await silent.go_on()
    assert other.requests("GET", "/_matrix/federation/v1/make_leave")
    assert not resident.taken
    membership = (await federation.house.head(room.id)).membership(ALICE)
    assert membership == ("leave" if heard == "there" else newer)


async def test_who_is_invited_again_while_they_wait_is_so(
    database: Database, hydra: RemoteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of that invite was rejected."""
    federation = await Federation.open(database, hydra)
    room = await invited_room(federation, hydra)
    make_membership = federation.calls.make_membership

    async def late(*asked: Any, **more: Any) -> Any:
        await invite_again(federation, hydra, room)
        return await make_membership(*asked, **more)

    monkeypatch.setattr(federation.calls, "make_membership", late)
    resident = Resident(hydra, room)
    with pytest.raises(Forbidden):
        await federation.house.rooms.leaving.leave(alice, room.id)
    assert not resident.taken
    assert (await federation.house.head(room.id)).membership(ALICE) == "invite"


async def test_an_invite_that_comes_before_the_answer_stays(
    database: Database, hydra: RemoteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was rejected invites again, and that is here before the leave is known to be taken."""
    federation = await Federation.open(database, hydra)
    room = await invited_room(federation, hydra)
    resident = Resident(hydra, room)
    send_leave = federation.calls.send_leave

    async def late(*leave: Any) -> None:
        await send_leave(*leave)
        await invite_again(federation, hydra, room)

    monkeypatch.setattr(federation.calls, "send_leave", late)
    event_id = await federation.house.rooms.leaving.leave(alice, room.id)
    assert [event.event_id for event in resident.taken] == [event_id]
    assert (await federation.house.head(room.id)).membership(ALICE) == "invite"
