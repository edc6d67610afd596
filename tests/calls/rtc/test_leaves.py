# SPDX-License-Identifier: Apache-2.0
"""Whoever loses the connection to a group call is taken out of it, and nobody else is."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import jwt
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from homeserver.calls.rtc.leaves import (
    CHECK_MS,
    LOOK_SECONDS,
    WAIT_MS,
    DelayedEvents,
    DelegatedLeaves,
    Participants,
    Verdict,
    judge,
)
from homeserver.calls.rtc.naming import livekit_identity, livekit_room
from storage.database import Database, DatabaseOverloaded
from storage.delegated_leaves import DelegatedLeave, DelegatedLeaveStore
from tests.calls.rtc.call_site import EVE, KEY, SECRET, SLOT, START, THEIRS, CallSite, call_site
from tests.reactor import reactor
from tests.rooms.engine_fixture import ALICE, BOB

NOW = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
IDENTITY = livekit_identity(ALICE, "DEV", "member")
DELAY = 3_600_000
"""Milliseconds of an event's delay: no test takes so long that it would matter."""
LATER = DELAY // 2
"""Of which the event is restarted."""


class Call:
    """A room in which alice hands over her leave events."""

    def __init__(self, site: CallSite, room_id: str) -> None:
        self.site, self.room_id = site, room_id
        self.participant = (livekit_room(room_id, SLOT), IDENTITY)
        self.done = site.delayed.done

    async def hand_over(self, delay_id: str = "leave", delay_ms: int = DELAY) -> None:
        """With the request for a token."""
        await self.site.delayed.schedule(ALICE, self.room_id, delay_id, delay_ms)
        proof = await self.site.proof(ALICE)
        answer = await self.site.by_member(self.room_id, proof, delay_id=delay_id, delay_timeout=delay_ms)
        assert answer.status == 200, answer.raw

    async def look(self) -> int:
        """As if time had passed that every look needs."""
        await self.site.database.execute("due", "UPDATE delegated_leaves SET next_ts = 0", ())
        return await self.site.leaves.look()

    async def pass_time(self, milliseconds: int) -> None:
        """For what is looked after."""
        await self.site.database.execute(
            "age",
            "UPDATE delegated_leaves SET since_ts = since_ts - %s, restarted_ts = restarted_ts - %s",
            (milliseconds, milliseconds),
        )

    async def webhook(self, event: str, *, secret: str = SECRET, **more: Any) -> int:
        """From LiveKit; the status of the answer."""
        body = {"event": event, "room": {"name": self.participant[0], "sid": "RM"}, "id": "EV", **more}
        raw = json.dumps(body).encode()
        digest = base64.b64encode(hashlib.sha256(raw).digest()).decode()
        token = jwt.encode({"iss": KEY, "exp": START + 300, "sha256": digest}, secret, algorithm="HS256")
        path = "/_matrix/client/unstable/org.lares.livekit/sfu_webhook"
        answer = await self.site.service.request("POST", path, body=raw, headers={"Authorization": token})
        return answer.status

    async def rest(self) -> None:
        """Nothing is due for long, but by what happens."""
        await self.site.database.execute(
            "rest", f"UPDATE delegated_leaves SET next_ts = {NOW} + %s", (DELAY,)
        )

    async def is_due(self) -> bool:
        """Whether a look is due now."""
        return bool(await self.site.leaves.look())


@asynccontextmanager
async def call(database: Database) -> AsyncIterator[Call]:
    """For the length of the block."""
    async with call_site(database) as site:
        yield Call(site, (await site.engine.new_room()).room_id)


async def test_a_part_lasts_as_long_as_the_connection(database: Database) -> None:
    """Nothing happens before they connect; then the event is restarted; and sent when they are gone, once."""
    async with call(database) as alices:
        await alices.hand_over()
        assert await alices.look() == 1
        assert alices.done == []
        alices.site.livekit.participants.add(alices.participant)
        await alices.pass_time(LATER)
        await alices.look()
        await alices.look()
        assert alices.done == [("restart", "leave")]
        await alices.pass_time(LATER)
        await alices.look()
        assert alices.done == [("restart", "leave")] * 2
        alices.site.livekit.participants.clear()
        await alices.look()
        assert alices.done[2:] == [("send", "leave")]
        assert await alices.look() == 0


async def test_a_livekit_that_does_not_answer_ends_no_call(database: Database) -> None:
    """Who was connected is kept in the call until LiveKit says otherwise."""
    async with call(database) as alices:
        await alices.hand_over()
        alices.site.livekit.participants.add(alices.participant)
        await alices.look()
        alices.site.livekit.broken = True
        alices.site.livekit.participants.clear()
        await alices.pass_time(LATER)
        await alices.look()
        assert alices.done == [("restart", "leave")]
        alices.site.livekit.broken = False
        await alices.look()
        assert alices.done[1:] == [("send", "leave")]


async def test_a_livekit_that_hangs_ends_no_call(database: Database) -> None:
    """The event is restarted while there is time, and not when a request has timed out."""
    asked: Deferred[None] = Deferred()

    class Hanging:
        async def holds(self, _room: str, _identity: str) -> bool:
            asked.callback(None)
            return await Deferred()

    async with call(database) as alices:
        await alices.hand_over()
        alices.site.livekit.participants.add(alices.participant)
        await alices.look()
        await alices.pass_time(LATER)
        await database.execute("due", "UPDATE delegated_leaves SET next_ts = 0", ())
        clock = Clock()
        leaves = DelegatedLeaves(
            scheduler=clock,
            store=DelegatedLeaveStore(database),
            delayed=alices.site.delayed,
            participants=Hanging(),
        )
        looking = Deferred.fromCoroutine(leaves.look())
        await asked
        while not clock.getDelayedCalls():
            await deferLater(reactor, 0)
        clock.advance(DELAY / 4000)
        assert await looking == 1
        assert alices.done == [("restart", "leave")]


async def test_a_look_that_fails_is_soon_taken_again(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with call(database) as alices:
        await alices.hand_over()
        alices.site.livekit.participants.add(alices.participant)
        await alices.look()
        await alices.pass_time(LATER)

        async def fails(_delay_id: str) -> None:
            raise OSError("the database is away")

        with monkeypatch.context() as broken:
            broken.setattr(alices.site.delayed, "restart", fails)
            await alices.look()
        assert "tried again" in caplog.text
        rows = await database.fetch("next", f"SELECT next_ts - {NOW} FROM delegated_leaves", ())
        assert rows[0][0] <= 1_000
        await alices.look()
        assert alices.done == [("restart", "leave")]


async def test_a_round_that_is_refused_at_once_is_not_the_last(caplog: pytest.LogCaptureFixture) -> None:
    """A database with no place left says so before anything was awaited."""
    taken: list[int] = []

    class Full:
        async def take(self, most: int, _hold_ms: int) -> list[DelegatedLeave]:
            taken.append(most)
            if len(taken) == 1:
                raise DatabaseOverloaded
            return []

    clock = Clock()
    leaves = DelegatedLeaves(
        scheduler=clock,
        store=cast(DelegatedLeaveStore, Full()),
        delayed=cast(DelayedEvents, None),
        participants=cast(Participants, None),
    )
    leaves.start()
    clock.advance(0)
    assert "could not be looked after" in caplog.text
    clock.advance(LOOK_SECONDS)
    clock.advance(LOOK_SECONDS)
    assert len(taken) == 3
    await leaves.stop()


async def test_a_webhook_hastens_the_look(database: Database) -> None:
    """LiveKit is asked at once; one that somebody else signed, or that is of something else, does nothing."""
    async with call(database) as alices:
        await alices.hand_over()
        assert await alices.is_due()
        await alices.rest()
        who: dict[str, Any] = {"participant": {"identity": IDENTITY, "sid": "PA"}}
        assert not await alices.is_due()
        assert (
            await alices.webhook(
                "participant_joined", secret="another secret, as long as the other one", **who
            )
            == 401
        )
        assert await alices.webhook("track_published", **who) == 200
        assert await alices.webhook("room_finished") == 200
        assert not await alices.is_due()
        # Somebody of that identity went, who was there before: this one is still to come.
        assert await alices.webhook("participant_left", **who) == 200
        assert await alices.is_due()
        assert alices.done == []
        # They came and went before anybody looked.
        assert await alices.webhook("participant_joined", **who) == 200
        assert await alices.webhook("participant_left", **who) == 200
        assert await alices.is_due()
        assert alices.done == [("send", "leave")]


async def test_what_a_webhook_says_during_a_look_stands(database: Database) -> None:
    """They came and went when LiveKit had just said that they were not there: the next look is due at once, and knows
    that they were.
    """
    store = DelegatedLeaveStore(database)

    class Overtaken:
        async def holds(self, room: str, identity: str) -> bool:
            assert await store.hasten(room, identity, came=True)
            assert await store.hasten(room, identity, came=False)
            return False

    async with call(database) as alices:
        await alices.hand_over()
        leaves = DelegatedLeaves(
            scheduler=reactor, store=store, delayed=alices.site.delayed, participants=Overtaken()
        )
        assert await leaves.look() == 1
        assert alices.done == []
        assert await alices.is_due()
        assert alices.done == [("send", "leave")]


async def test_what_was_cancelled_is_forgotten(database: Database) -> None:
    """A client that leaves in order has its event cancelled; there is nothing to look after then."""
    async with call(database) as alices:
        await alices.hand_over()
        alices.site.livekit.participants.add(alices.participant)
        await alices.look()
        await alices.site.delayed.send("leave")
        alices.done.clear()
        await alices.pass_time(LATER)
        await alices.look()
        assert alices.done == [("restart", "leave")]
        assert await alices.look() == 0


async def test_a_later_event_takes_the_place_of_an_earlier(database: Database) -> None:
    """Whoever joins anew hands over anew, also by the endpoint for those who are connected already."""
    async with call(database) as alices:
        await alices.hand_over("first")
        await alices.site.delayed.schedule(ALICE, alices.room_id, "second")
        member = {"id": "member", "claimed_user_id": ALICE, "claimed_device_id": "DEV"}
        body = {
            "room_id": alices.room_id,
            "slot_id": SLOT,
            "openid_token": await alices.site.proof(ALICE),
            "member": member,
            "delay_id": "second",
            "delay_timeout": DELAY,
        }
        assert (await alices.site.post("/delegate_delayed_leave", body)).json == {}
        alices.site.livekit.participants.add(alices.participant)
        await alices.pass_time(LATER)
        await alices.look()
        assert alices.done == [("restart", "second")]


async def test_only_ones_own_events_can_be_handed_over(database: Database) -> None:
    """Not other people's, not of another room, not finished ones, and none of other servers' users."""
    async with call(database) as alices:
        site = alices.site
        other = (await site.engine.new_room()).room_id
        await site.engine.join(alices.room_id, BOB, EVE)
        await site.delayed.schedule(ALICE, alices.room_id, "hers")
        await site.delayed.schedule(BOB, other, "elsewhere")
        await site.delayed.schedule(BOB, alices.room_id, "over")
        await site.delayed.send("over")
        proof = await site.proof(BOB)
        for delay_id in ("hers", "elsewhere", "over", "none"):
            answer = await site.by_device(alices.room_id, proof, delay_id=delay_id)
            assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")
        answer = await site.by_device(alices.room_id, await site.proof(EVE, THEIRS), delay_id="hers")
        assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")
        assert await alices.look() == 0


@pytest.mark.parametrize(
    ("connected", "present", "waited", "unrestarted", "verdict"),
    [
        (False, True, 0, 0, Verdict.WAIT),
        (False, True, 0, 20_000, Verdict.RESTART),
        (True, True, 0, 19_999, Verdict.WAIT),
        (True, None, 0, 20_000, Verdict.RESTART),
        (True, False, 0, 0, Verdict.SEND),
        (False, False, 59_999, 59_999, Verdict.WAIT),
        (False, None, 60_000, 60_000, Verdict.FORGET),
    ],
)
def test_verdicts(
    connected: bool, present: bool | None, waited: int, unrestarted: int, verdict: Verdict
) -> None:
    """Of an event that is delayed by a minute."""
    leave = DelegatedLeave("room", "identity", "delay", 60_000, connected, waited, unrestarted, 0)
    assert judge(leave, present=present) is verdict


def test_nobody_is_waited_for_longer_than_an_hour() -> None:
    leave = DelegatedLeave("room", "identity", "delay", 10 * WAIT_MS, False, WAIT_MS, WAIT_MS, 0)
    assert judge(leave, present=False) is Verdict.FORGET
    assert CHECK_MS < WAIT_MS
