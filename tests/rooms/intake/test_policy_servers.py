# SPDX-License-Identifier: Apache-2.0
"""Events from outside into a room with a policy server: who lacks its signature is asked about, or is not heard."""

from __future__ import annotations

import orjson
import pytest
from msgspec.structs import replace

from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.events import Event
from homeserver.protocol.policy_servers import PolicyServer, with_recommendation
from homeserver.protocol.signing import POLICY_KEY_ID, SigningKey
from homeserver.rooms.engine import Room
from homeserver.rooms.intake.incoming import Incoming, Outcome
from storage.database import Database
from tests.rooms.intake.dag import Dag, ids
from tests.rooms.intake.intake_fixture import ALICE, DAVE, Process, ends
from tests.rooms.policy_fixture import BOT, CONTENT, KEY, VIA, PolicyServersInMemory, policy, signature

SERVER = PolicyServer.from_content(CONTENT)


async def guarded(
    database: Database, asked: PolicyServersInMemory, version: str = "11"
) -> tuple[Process, Room, Dag]:
    """A room of Alice's that uses the policy server, with Dave of another server."""
    process = await Process.open(database, asked)
    room, dag = await process.room_with(BOT, DAVE, version=version, power=100 if version != "12" else 50)
    await process.engine.engine.write(room.room_id, lambda _head: [policy(ALICE)], users=(ALICE,))
    await dag.learn(database, room)
    return process, room, dag


def signed(incoming: Incoming, key: SigningKey = KEY) -> Incoming:
    """As an honest server would send it."""
    event = with_recommendation(incoming.event, VIA, signature(incoming.event, key))
    return replace(incoming, event=event, json=encode_canonical(event.pdu).decode())


async def stored(process: Process, incoming: Incoming) -> Event:
    found = await process.engine.events.by_ids((incoming.event.event_id,))
    pdu = orjson.loads(found[incoming.event.event_id].pdu)
    return Event.from_pdu(pdu, incoming.event.room_version, incoming.event.event_id)


async def outcomes(process: Process, room: Room, *events: Incoming) -> list[Outcome]:
    return [verdict.outcome for verdict in await process.receive(room, *events)]


async def test_what_is_signed_is_taken(database: Database) -> None:
    """Nobody is asked again."""
    asked = PolicyServersInMemory()
    process, room, dag = await guarded(database, asked)
    hello = signed(dag.say(DAVE, "spam, but it was allowed", prev=ends(room)))
    await process.accept(room, hello)
    assert asked.asked == []
    assert ends(room) == ids(hello)


@pytest.mark.parametrize("version", ["1", "11", "12"])
async def test_what_is_not_signed_is_asked_about(database: Database, version: str) -> None:
    """All of a transaction at once; what is recommended is kept, and sent on, with the signature."""
    asked = PolicyServersInMemory()
    process, room, dag = await guarded(database, asked, version)
    good = dag.say(DAVE, "hello", prev=ends(room))
    spam = dag.say(DAVE, "spam", prev=ids(good))
    after = dag.say(DAVE, "sorry", prev=ids(spam))
    assert await outcomes(process, room, good, spam, after) == [
        Outcome.ACCEPTED,
        Outcome.SOFT_FAILED,
        Outcome.ACCEPTED,
    ]
    assert asked.asked_together == [3]
    assert SERVER is not None
    assert SERVER.recommends(await stored(process, good))
    assert not SERVER.recommends(await stored(process, spam))
    assert ends(room) == ids(after)
    shown = [entry.event.content.get("body") for entry in room.recent]
    assert shown[-2:] == ["hello", "sorry"] and "spam" not in shown
    assert await outcomes(process, room, spam, good) == [Outcome.KNOWN] * 2
    assert asked.asked_together == [3], "known events are no question any more"


async def test_what_is_refused_is_built_on_by_nothing_of_ours(database: Database) -> None:
    process, room, dag = await guarded(database, PolicyServersInMemory())
    before = ends(room)
    spam = dag.topic(DAVE, "spam", prev=before)
    assert await outcomes(process, room, spam) == [Outcome.SOFT_FAILED]
    assert ends(room) == before
    event_id = await process.say(room, "on")
    entry = room.recent[-1]
    assert entry.stored.event_id == event_id and list(entry.event.prev_event_ids) == before
    assert room.head.state_event("m.room.topic") is None
    fresh = await Process.open(database)
    again = await fresh.engine.cache.get(room.room_id)
    assert again is not None and again.head.state_event("m.room.topic") is None


async def test_forgeries_are_as_good_as_nothing(database: Database) -> None:
    """Another key under that id, another event's signature, what is no signature: it is asked anew."""
    asked = PolicyServersInMemory()
    process, room, dag = await guarded(database, asked)
    other = SigningKey.from_seed(POLICY_KEY_ID, bytes(32))
    for text in ("spam by another key", "spam with another's signature", "spam with noise"):
        spam = dag.say(DAVE, text, prev=ends(room))
        lies = {
            "spam by another key": signature(spam.event, other),
            "spam with another's signature": signature(next(iter(dag.events.values()))),
            "spam with noise": "AAAA",
        }
        event = with_recommendation(spam.event, VIA, lies[text])
        forged = replace(spam, event=event, json=encode_canonical(event.pdu).decode())
        assert await outcomes(process, room, forged) == [Outcome.SOFT_FAILED]
    assert len(asked.asked) == 3
    good = dag.say(DAVE, "hello", prev=ends(room))
    event = with_recommendation(good.event, VIA, "AAAA")
    await process.accept(room, replace(good, event=event, json=encode_canonical(event.pdu).decode()))
    assert SERVER is not None and SERVER.recommends(await stored(process, good))


async def test_what_fails_another_check_is_not_asked_about(database: Database) -> None:
    """Nor what lacks others that come first: nobody has us ask for nothing."""
    asked = PolicyServersInMemory()
    process, room, dag = await guarded(database, asked)
    kicked = dag.write(DAVE, "m.room.member", {"membership": "ban"}, ALICE, prev=ends(room), auth=())
    early = dag.say(DAVE, "early", prev=ids(dag.say(DAVE, "missing", prev=ends(room))))
    assert await outcomes(process, room, kicked, early) == [Outcome.REJECTED, Outcome.MISSING]
    assert asked.asked == []


async def test_the_choice_comes_among_the_events(database: Database) -> None:
    """Before it nobody is asked, after it somebody is, and the choice itself is the room's alone."""
    asked = PolicyServersInMemory()
    process = await Process.open(database, asked)
    room, dag = await process.room_with(BOT, DAVE)
    before = dag.say(DAVE, "spam", prev=ends(room))
    choice = dag.write(DAVE, "m.room.policy", CONTENT, "", prev=ids(before))
    after = dag.say(DAVE, "more spam", prev=ids(choice))
    end = dag.write(DAVE, "m.room.policy", {}, "", prev=ids(after))
    free = dag.say(DAVE, "spam again", prev=ids(end))
    verdicts = await outcomes(process, room, before, choice, after, end, free)
    assert verdicts == [Outcome.ACCEPTED] * 2 + [Outcome.SOFT_FAILED] + [Outcome.ACCEPTED] * 2
    assert asked.bodies == ["more spam"]


async def test_the_room_goes_on_while_it_is_asked(database: Database) -> None:
    """Asking about others' events does not hold the room."""
    asked = PolicyServersInMemory()
    process, room, dag = await guarded(database, asked)
    hello = dag.say(DAVE, "hello", prev=ends(room))
    asking = asked.sign_received

    async def slowly(policy_server, events):  # type: ignore[no-untyped-def]
        await process.say(room, "meanwhile")
        return await asking(policy_server, events)

    asked.sign_received = slowly  # type: ignore[method-assign]
    await process.accept(room, hello)
    await dag.learn(database, room)
    assert len(ends(room)) == 2


async def test_one_that_is_slow_is_asked_again(database: Database) -> None:
    """What there was no time for is asked about next, as long as there is any answer at all."""
    asked = PolicyServersInMemory()
    process, room, dag = await guarded(database, asked)
    asking = asked.sign_received

    async def slowly(policy_server, events):  # type: ignore[no-untyped-def]
        return await asking(policy_server, events[:2])

    asked.sign_received = slowly  # type: ignore[method-assign]
    line = [dag.say(DAVE, "1", prev=ends(room))]
    for number in range(2, 6):
        line.append(dag.say(DAVE, str(number), prev=ids(line[-1])))
    await process.accept(room, *line)
    assert asked.asked_together == [2, 2, 1]

    async def never(_policy_server, _events):  # type: ignore[no-untyped-def]
        return {}

    asked.sign_received = never  # type: ignore[method-assign]
    late = dag.say(DAVE, "late", prev=ends(room))
    assert await outcomes(process, room, late) == [Outcome.SOFT_FAILED]


async def test_the_past_is_not_asked_about(database: Database) -> None:
    """History and state whose place is not known are what they were."""
    asked = PolicyServersInMemory()
    process, room, dag = await guarded(database, asked)
    old = dag.topic(DAVE, "spam of old", prev=ids(dag.say(DAVE, "older", prev=ends(room))))
    (verdict,) = await process.intake.receive_outliers(room.room_id, room.head.version, [old])
    assert verdict.outcome is Outcome.ACCEPTED
    assert asked.asked == []
