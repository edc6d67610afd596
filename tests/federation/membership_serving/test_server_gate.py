# SPDX-License-Identifier: Apache-2.0
"""What another server may read of a room, and in which form."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from homeserver.errors import Forbidden, NotFound
from homeserver.protocol.hashes import content_hash_matches
from homeserver.protocol.room_versions import room_version
from homeserver.rooms.server_access import ServerAccess, ServerGate
from storage.events import StoredEvent
from tests.federation.membership_serving.test_restricted_joins import invite
from tests.federation.membership_serving.world import Serving, Visitor
from tests.rooms.services_fixture import alice


async def stored(serving: Serving, *event_ids: str) -> list[StoredEvent]:
    """Events as the database has them."""
    found = await serving.house.engine.events.by_ids(event_ids)
    return [found[event_id] for event_id in event_ids]


async def say(serving: Serving, room_id: str, body: str) -> str:
    """Alice sends a message."""
    return await serving.house.engine.send(room_id, alice.user_id, body)


async def room_with(serving: Serving, visibility: str, **wishes: Any) -> str:
    """A public room of Alice's whose history is so."""
    room_id = await serving.house.create(preset="public_chat", version="11", **wishes)
    content = {"history_visibility": visibility}
    await serving.house.set(alice, room_id, "m.room.history_visibility", content)
    return room_id


async def leave(visitor: Visitor, room_id: str) -> None:
    """The visitor goes."""
    event = (await visitor.filled("leave", room_id)).event
    assert (await visitor.send("leave", room_id, event.pdu, event_id=event.event_id)).status == 200


def body_of(pdu: bytes) -> str | None:
    """The text of a message; None if it is redacted."""
    text: str | None = orjson.loads(pdu)["content"].get("body")
    return text


class Untouched:
    """A store that must not be asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")


async def test_who_is_not_in_the_room_reads_nothing(serving: Serving, hydra: Visitor, other: Visitor) -> None:
    """The refusal is the same whether there is such a room or not: before joining, after leaving, when invited."""
    room_id = await room_with(serving, "shared")
    gate = serving.gate
    with pytest.raises(Forbidden) as unknown:
        await gate.access_room(hydra.server.name, "!nowhere:localhost", world_readable=True)
    with pytest.raises(Forbidden) as never:
        await gate.access_room(hydra.server.name, room_id, world_readable=True)
    assert str(unknown.value) == str(never.value)
    assert (await hydra.join(room_id)).status == 200
    assert (await gate.access_room(hydra.server.name, room_id)).in_room
    await leave(hydra, room_id)
    with pytest.raises(Forbidden):
        await gate.access_room(hydra.server.name, room_id)
    await invite(serving, room_id, other.user_id)
    with pytest.raises(Forbidden):
        await gate.access_room(other.server.name, room_id)


async def test_who_is_shut_out_reads_nothing(serving: Serving, hydra: Visitor) -> None:
    """Though its user is still in the room."""
    room_id = await room_with(serving, "world_readable")
    assert (await hydra.join(room_id)).status == 200
    message = await say(serving, room_id, "hello")
    acl = {"allow": ["*"], "deny": [hydra.server.name]}
    await serving.house.set(alice, room_id, "m.room.server_acl", acl)
    with pytest.raises(Forbidden):
        await serving.gate.access_room(hydra.server.name, room_id, world_readable=True)
    with pytest.raises(NotFound):
        await serving.gate.access_event(hydra.server.name, message)


async def test_shared_history_is_whole_and_asks_nothing(serving: Serving, hydra: Visitor) -> None:
    """The common case costs no query: whoever is in the room sees all that is shared."""
    room_id = await room_with(serving, "shared")
    message = await say(serving, room_id, "before you came")
    assert (await hydra.join(room_id)).status == 200
    access = await serving.gate.access_room(hydra.server.name, room_id)
    events = await stored(serving, message)
    frugal = ServerGate(
        server_name="localhost",
        cache=serving.house.engine.cache,
        events=serving.house.engine.events,
        memberships=Untouched(),  # type: ignore[arg-type]
        history=Untouched(),  # type: ignore[arg-type]
    )
    assert await frugal.visible(access, events) == [True]
    assert await frugal.pdus(access, events) == [events[0].pdu.encode()]


@pytest.mark.parametrize(
    ("visibility", "seen"),
    [
        ("joined", [None, None, "joined", None, "again"]),
        ("invited", [None, "invited", "joined", None, "again"]),
        ("shared", ["early", "invited", "joined", "gone", "again"]),
    ],
)
async def test_what_was_not_for_the_server_is_redacted(
    serving: Serving, hydra: Visitor, visibility: str, seen: list[str | None]
) -> None:
    """Its place in the graph is told, its content is not; the id stays what it was."""
    room_id, sent = await history(serving, hydra, visibility)
    access = await serving.gate.access_room(hydra.server.name, room_id)
    events = await stored(serving, *sent)
    pdus = await serving.gate.pdus(access, events)
    assert [body_of(pdu) for pdu in pdus] == seen
    for pdu, text in zip(pdus, seen, strict=True):
        assert content_hash_matches(orjson.loads(pdu), room_version("11")) == (text is not None)


@pytest.mark.parametrize("visibility", ["joined", "invited"])
async def test_history_from_before_our_time_is_judged_by_its_state(
    serving: Serving, hydra: Visitor, visibility: str
) -> None:
    """Events that were fetched later stand at no place in the stream; the state before each says who was there."""
    room_id, sent = await history(serving, hydra, visibility)
    access = await serving.gate.access_room(hydra.server.name, room_id)
    events = await stored(serving, *sent)
    expected = await serving.gate.visible(access, events)
    assert True in expected
    assert False in expected
    old = [event._replace(position=-number) for number, event in enumerate(events)]
    assert await serving.gate.visible(access, old) == expected


async def history(serving: Serving, hydra: Visitor, visibility: str) -> tuple[str, list[str]]:
    """Messages before hydra's user is invited, then invited, joined, gone, and joined again."""
    room_id = await room_with(serving, visibility)
    sent = [await say(serving, room_id, "early")]
    await invite(serving, room_id, hydra.user_id)
    sent.append(await say(serving, room_id, "invited"))
    assert (await hydra.join(room_id)).status == 200
    sent.append(await say(serving, room_id, "joined"))
    await leave(hydra, room_id)
    sent.append(await say(serving, room_id, "gone"))
    assert (await hydra.join(room_id)).status == 200
    sent.append(await say(serving, room_id, "again"))
    return room_id, sent


async def test_own_events_and_memberships_are_whole(serving: Serving, hydra: Visitor) -> None:
    """Whatever the history's visibility: the server made them, or must know of them."""
    room_id = await room_with(serving, "joined")
    assert (await hydra.join(room_id)).status == 200
    joined = (await serving.head(room_id)).extremities[0][0]
    access = await serving.gate.access_room(hydra.server.name, room_id)
    assert await serving.gate.visible(access, await stored(serving, joined)) == [True]


async def test_anybody_reads_what_all_may_read(serving: Serving, hydra: Visitor) -> None:
    """Where the endpoint lets them; what was not open to all is left out, not redacted."""
    room_id = await room_with(serving, "shared")
    hidden = await say(serving, room_id, "hidden")
    await serving.house.set(
        alice, room_id, "m.room.history_visibility", {"history_visibility": "world_readable"}
    )
    open_to_all = await say(serving, room_id, "open")
    name = hydra.server.name
    with pytest.raises(Forbidden):
        await serving.gate.access_room(name, room_id)
    access = await serving.gate.access_room(name, room_id, world_readable=True)
    assert not access.in_room
    pdus = await serving.gate.pdus(access, await stored(serving, hidden, open_to_all))
    assert [body_of(pdu) for pdu in pdus] == ["open"]
    assert (await serving.gate.access_event(name, open_to_all))[1].event_id == open_to_all
    with pytest.raises(NotFound):
        await serving.gate.access_event(name, hidden)


async def test_other_rooms_and_rejected_events_are_never_given(serving: Serving, hydra: Visitor) -> None:
    """A rejected event never was the room's; access to one room is none to another."""
    room_id = await room_with(serving, "shared")
    elsewhere = await room_with(serving, "world_readable")
    assert (await hydra.join(room_id)).status == 200
    message, foreign = await say(serving, room_id, "here"), await say(serving, elsewhere, "there")
    access: ServerAccess = await serving.gate.access_room(hydra.server.name, room_id)
    here, there = await stored(serving, message, foreign)
    assert await serving.gate.pdus(access, [here._replace(flags=1), there]) == []
    outlier = here._replace(flags=4)
    assert await serving.gate.pdus(access, [outlier]) == []
    assert await serving.gate.visible(access, [outlier._replace(state_key="")]) == [True]


async def test_a_room_we_left_can_still_be_read_by_those_who_stayed(serving: Serving, hydra: Visitor) -> None:
    """They may need what only we have: what was said before our last user left. A handshake is refused."""
    room_id = await room_with(serving, "shared")
    assert (await hydra.join(room_id)).status == 200
    message = await say(serving, room_id, "good-bye")
    await serving.house.rooms.leaving.leave(alice, room_id)
    access = await serving.gate.access_room(hydra.server.name, room_id)
    assert await serving.gate.visible(access, await stored(serving, message)) == [True]
    with pytest.raises(NotFound):
        await serving.gate.resident_room(hydra.server.name, room_id)


async def test_an_event_by_its_id(serving: Serving, hydra: Visitor) -> None:
    """Given to servers in its room; otherwise it is not found, like one that there never was."""
    room_id = await room_with(serving, "shared")
    message = await say(serving, room_id, "hello")
    with pytest.raises(NotFound) as hidden:
        await serving.gate.access_event(hydra.server.name, message)
    with pytest.raises(NotFound) as unknown:
        await serving.gate.access_event(hydra.server.name, "$nothing")
    assert str(hidden.value) == str(unknown.value)
    assert (await hydra.join(room_id)).status == 200
    access, event = await serving.gate.access_event(hydra.server.name, message)
    assert (access.in_room, event.event_id) == (True, message)


async def test_a_room_known_in_part_speaks_to_nobody(serving: Serving, hydra: Visitor) -> None:
    """Its members are not all known here, so that nothing can be said of who may join; those in it may read it."""
    room_id = await room_with(serving, "shared")
    room = await serving.house.room(room_id)
    room.head.partial_servers = frozenset((hydra.server.name,))
    with pytest.raises(NotFound):
        await serving.gate.resident_room(hydra.server.name, room_id)
    assert (await serving.gate.access_room(hydra.server.name, room_id)).in_room
