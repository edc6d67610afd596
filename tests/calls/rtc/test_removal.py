# SPDX-License-Identifier: Apache-2.0
"""Who is no longer in a room hears nothing more of its calls, whatever tokens they kept."""

from __future__ import annotations

from homeserver.calls.rtc.admission import MOST_TICKETS
from homeserver.calls.rtc.naming import legacy_identity, livekit_room
from storage.database import Database
from storage.livekit_tickets import LiveKitTicketStore
from tests.calls.rtc.call_site import EVE, FRIENDS, SLOT, THEIRS, CallSite, call_site
from tests.rooms.engine_fixture import ALICE, BOB, member


async def look(site: CallSite, lost_for_ms: int = 0) -> int:
    """As if the pause were over, and those who are lost had been so for long."""
    await site.database.execute(
        "due", "UPDATE livekit_tickets SET next_ts = 0, lost_ts = lost_ts - %s", (lost_for_ms,)
    )
    return await site.removal.look()


async def test_who_is_removed_from_the_room_is_removed_from_the_call(database: Database) -> None:
    """Of this server and of others; who stays is left alone; and also if they connect once more by the old token."""
    async with call_site(database) as site:
        room_id = (await site.engine.new_room()).room_id
        await site.engine.join(room_id, BOB, EVE)
        room = livekit_room(room_id, SLOT)
        for user_id, server in ((ALICE, "localhost"), (BOB, "localhost"), (EVE, THEIRS)):
            assert (await site.by_device(room_id, await site.proof(user_id, server))).status == 200
            site.livekit.participants.add((room, legacy_identity(user_id, "DEV")))
        assert await look(site) == 0

        for user_id in (BOB, EVE):
            await site.engine.engine.write(
                room_id,
                lambda _head, user_id=user_id: [member(user_id, "ban", ALICE)],  # type: ignore[misc]
                users=(ALICE, user_id),
            )
        assert await look(site) == 2
        assert site.livekit.participants == {(room, legacy_identity(ALICE, "DEV"))}
        site.livekit.participants.add((room, legacy_identity(BOB, "DEV")))
        assert await look(site) == 2
        assert site.livekit.participants == {(room, legacy_identity(ALICE, "DEV"))}
        # When no token of theirs can be good any more they are forgotten.
        await look(site, lost_for_ms=3 * 3_600_000)
        assert await look(site) == 0


async def test_nobody_is_removed_who_may_well_be_in_the_room(database: Database) -> None:
    """A room that this server joined a moment ago, whose members are still to come."""
    async with call_site(database) as site:
        room_id = (await site.engine.new_room()).room_id
        await site.engine.join(room_id, BOB)
        await site.database.execute(
            "partial",
            "INSERT INTO partial_rooms (room, event_id, snapshot, destination, servers)"
            " SELECT room, '$join', 1, %s, ARRAY[%s] FROM rooms WHERE room_id = %s",
            (THEIRS, THEIRS, room_id),
        )
        tickets = LiveKitTicketStore(database)
        for user_id in (EVE, "@stranger:third.test"):
            ticket = {"livekit_room": "r", "identity": user_id, "room_id": room_id, "user_id": user_id}
            assert await tickets.put(**ticket, most=10)
        assert [lost.identity for lost in await tickets.take_lost("localhost", 10, 0)] == [
            "@stranger:third.test"
        ]
        await site.engine.join(room_id, EVE)
        await site.engine.engine.write(room_id, lambda _head: [member(EVE, "ban", ALICE)], users=(ALICE, EVE))
        assert len(await tickets.take_lost("localhost", 10, 0)) == 2


async def test_tickets_are_bounded(database: Database) -> None:
    """Whoever makes up names for themselves is refused in the end."""
    async with call_site(database) as site:
        room_id = (await site.engine.new_room()).room_id
        await site.database.execute(
            "many",
            "INSERT INTO livekit_tickets SELECT 'r', n::text, 'r', %s, %s, NULL, %s"
            " FROM generate_series(1, %s) n",
            (ALICE, 2**50, 2**50, MOST_TICKETS),
        )
        answer = await site.by_device(room_id, await site.proof(ALICE))
        assert (answer.status, answer.errcode) == (429, "M_LIMIT_EXCEEDED")


async def test_who_comes_back_is_let_in_again(database: Database) -> None:
    """A new ticket ends the search."""
    async with call_site(database) as site:
        room_id = (await site.engine.new_room()).room_id
        await site.engine.join(room_id, BOB)
        proof = await site.proof(BOB)
        await site.by_device(room_id, proof)
        await site.engine.engine.write(room_id, lambda _head: [member(BOB, "leave")], users=(BOB,))
        assert await look(site) == 1
        await site.engine.join(room_id, BOB)
        assert (await site.by_device(room_id, proof)).status == 200
        assert await look(site) == 0


async def test_rooms_of_other_servers_are_theirs_to_watch(database: Database) -> None:
    """Who is in them cannot be told, so nobody is removed; nor forgotten while LiveKit does not answer."""
    async with call_site(database) as site:
        friend = await site.proof(f"@f:{FRIENDS}", FRIENDS)
        assert (await site.by_device("!theirs:friends.test", friend)).status == 200
        assert await look(site) == 0
        room_id = (await site.engine.new_room()).room_id
        await site.by_device(room_id, await site.proof(ALICE))
        await site.engine.engine.write(room_id, lambda _head: [member(ALICE, "leave")], users=(ALICE,))
        site.livekit.broken = True
        assert await look(site) == 1
        await look(site, lost_for_ms=3 * 3_600_000)
        assert await look(site) == 1
