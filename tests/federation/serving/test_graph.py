# SPDX-License-Identifier: Apache-2.0
"""Walking rooms for others: states, auth chains and histories, on branches and in gaps, within bounds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from federation.serving.ancestors import Walk, nearest_first, newest_first
from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import room_version
from homeserver.rooms.intake.incoming import Incoming, Outcome
from storage.ancestors import AncestorStore
from storage.database import Database
from storage.events import StoredEvent
from tests.federation.membership_serving.world import Visitor, id_of
from tests.federation.serving.world import Reading, bodies
from tests.rooms.services_fixture import alice, bob

VERSIONS = ("1", "3", "11", "12")


async def events(serving: Reading, *event_ids: str) -> list[Event]:
    """Events as they are stored."""
    found = await serving.house.engine.events.by_ids(event_ids)
    heads = await serving.house.engine.cache.get_many(keys=sorted({each.room for each in found.values()}))
    (version,) = {room.head.version for room in heads.values()}
    return [Event.from_pdu(json.loads(found[each].pdu), version, each) for each in event_ids]


async def answer_to(
    serving: Reading, visitor: Visitor, prev: Sequence[str], body: str, *, depth: int | None = None
) -> str:
    """The visitor's server sends a message that follows those events; its id."""
    parents = await events(serving, *prev)
    room_id = parents[0].room_id
    head = await serving.head(room_id)
    auth = [
        entry.event
        for key in (("m.room.create", ""), ("m.room.power_levels", ""))
        if (entry := head.state.get(key)) is not None
        and not (key[0] == "m.room.create" and not head.version.create_in_auth_events)
    ]
    joined = await serving.house.engine.gate.members(await serving.house.room(room_id), [visitor.user_id])
    auth.append(joined[visitor.user_id].event)
    built = visitor.server.pdu(
        version=head.version,
        room_id=room_id,
        sender=visitor.user_id,
        content={"msgtype": "m.text", "body": body},
        prev=parents,
        auth=auth,
        depth=depth,
    )
    incoming = Incoming(built.event, built.json_bytes.decode())
    (verdict,) = await serving.intake.receive(room_id, (incoming,))
    assert verdict.outcome is Outcome.ACCEPTED, verdict
    return built.event.event_id


def event_ids(pdus: Sequence[dict[str, Any]], version: str) -> list[str]:
    """Their ids."""
    return [id_of(pdu, version) for pdu in pdus]


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_state_before_an_event(serving: Reading, hydra: Visitor, version: str) -> None:
    """As it was then, byte for byte as it is stored, with an auth chain that is closed under citation."""
    room_id = await serving.room(version=version, name="before")
    assert (await hydra.join(room_id)).status == 200
    message = await serving.say(room_id, "between")
    await serving.house.set(alice, room_id, "m.room.name", {"name": "after"})
    await serving.house.rooms.joining.join(bob, room_id)
    whole = await serving.get(hydra, "state", room_id, query=[("event_id", message)])
    ids = (await serving.get(hydra, "state_ids", room_id, query=[("event_id", message)])).json
    assert set(whole.json) == {"pdus", "auth_chain"}
    assert set(ids) == {"pdu_ids", "auth_chain_ids"}
    assert sorted(event_ids(whole.json["pdus"], version)) == sorted(ids["pdu_ids"])
    assert sorted(event_ids(whole.json["auth_chain"], version)) == sorted(ids["auth_chain_ids"])
    state = {(pdu["type"], pdu["state_key"]): pdu for pdu in whole.json["pdus"]}
    assert len(state) == len(whole.json["pdus"])
    assert state["m.room.name", ""]["content"] == {"name": "before"}
    assert ("m.room.member", hydra.user_id) in state
    assert ("m.room.member", bob.user_id) not in state
    for stored in (await serving.house.engine.events.by_ids(ids["pdu_ids"])).values():
        assert stored.pdu.encode() in whole.raw
    chain = set(ids["auth_chain_ids"])
    for event in await events(serving, *ids["pdu_ids"], *ids["auth_chain_ids"]):
        assert set(event.auth_event_ids) <= chain


async def test_the_first_event_has_no_state_before_it(serving: Reading, hydra: Visitor) -> None:
    """An empty answer, and no error."""
    room_id = await serving.room()
    assert (await hydra.join(room_id)).status == 200
    create = (await serving.head(room_id)).state["m.room.create", ""].stored.event_id
    answer = await serving.get(hydra, "state", room_id, query=[("event_id", create)])
    assert answer.json == {"pdus": [], "auth_chain": []}


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_auth_chain_of_an_event(serving: Reading, hydra: Visitor, version: str) -> None:
    """Of messages and of state events: whole, and without the event itself."""
    room_id = await serving.room(version=version)
    assert (await hydra.join(room_id)).status == 200
    join = await serving.newest(room_id)
    for event_id in (join, await serving.say(room_id, "hello")):
        answer = await serving.get(hydra, "event_auth", room_id, event_id)
        chain = {id_of(pdu, version) for pdu in answer.json["auth_chain"]}
        wanted, waiting = set[str](), [event_id]
        while waiting:
            for event in await events(serving, *waiting):
                waiting = [each for each in event.auth_event_ids if each not in wanted]
                wanted.update(waiting)
        assert wanted <= chain
        assert event_id not in chain
        # Room versions in which the create event is not cited may have it besides.
        assert len(chain - wanted) <= (0 if room_version(version).create_in_auth_events else 1)


@pytest.mark.parametrize("version", ["1", "11"])
async def test_backfill_goes_back_along_the_graph(serving: Reading, hydra: Visitor, version: str) -> None:
    """The events named and what is before them, newest first; not what is on branches beside them."""
    room_id = await serving.room(version=version)
    assert (await hydra.join(room_id)).status == 200
    first = await serving.say(room_id, "first")
    left = await answer_to(serving, hydra, [first], "left")
    right = await answer_to(serving, hydra, [first], "right")
    merged = await answer_to(serving, hydra, [left, right], "merged")

    async def backfill(limit: int, *start: str) -> list[str | None]:
        query = [*(("v", each) for each in start), ("limit", str(limit))]
        return bodies((await serving.get(hydra, "backfill", room_id, query=query)).json["pdus"])

    assert await backfill(2, left) == ["left", "first"]
    found = await backfill(4, merged)
    assert (found[0], set(found[1:3]), found[3]) == ("merged", {"left", "right"}, "first")
    assert set(await backfill(2, left, right)) == {"left", "right"}
    assert await backfill(0, merged) == []
    assert await backfill(5, "$unknown") == []


async def test_what_depth_hides_is_found_all_the_same(serving: Reading, hydra: Visitor) -> None:
    """Depth is claimed by who sends: an event that says to be deeper than its child is met on the way."""
    room_id = await serving.room()
    assert (await hydra.join(room_id)).status == 200
    for number in range(5):
        await serving.say(room_id, f"filling {number}")
    first = await serving.newest(room_id)
    deep = await answer_to(serving, hydra, [first], "deep", depth=10_000)
    child = await answer_to(serving, hydra, [deep], "child", depth=20)
    query = [("v", child), ("limit", "3")]
    found = bodies((await serving.get(hydra, "backfill", room_id, query=query)).json["pdus"])
    assert found[:2] == ["child", "deep"]


async def test_missing_events_are_those_between(serving: Reading, hydra: Visitor) -> None:
    """Parents first; neither the ends named, nor what is before the earliest or less deep than wanted."""
    room_id = await serving.room()
    assert (await hydra.join(room_id)).status == 200
    sent = [await serving.say(room_id, str(number)) for number in range(30)]

    async def missing(**body: Any) -> list[str | None]:
        wanted = {"earliest_events": [], "latest_events": [sent[-1]], **body}
        answer = await serving.post(hydra, "get_missing_events", room_id, body=wanted)
        assert answer.status == 200, answer.raw
        return bodies(answer.json["events"])

    assert await missing(earliest_events=[sent[25]]) == ["26", "27", "28"]
    assert await missing() == [str(number) for number in range(19, 29)]
    assert await missing(limit=3) == ["26", "27", "28"]
    assert await missing(limit=10**30) == [str(number) for number in range(9, 29)]
    (deep,) = await events(serving, sent[27])
    assert await missing(min_depth=deep.depth) == ["27", "28"]
    assert await missing(limit=-1) == []
    assert await missing(latest_events=[]) == []


async def test_rejected_events_and_outliers_are_no_history(serving: Reading, hydra: Visitor) -> None:
    """They have no place in the graph that anybody could build on; soft-failed ones that are referenced have."""
    room_id = await serving.room()
    assert (await hydra.join(room_id)).status == 200
    sent = [await serving.say(room_id, str(number)) for number in range(4)]
    flags = dict(zip(sent[:3], (1, 4, 2), strict=True))
    for event_id, flag in flags.items():
        await serving.database.execute(
            "test_flag", "UPDATE events SET flags = %s WHERE event_id = %s", (flag, event_id)
        )
    query = [("v", sent[3]), ("limit", "10")]
    assert bodies((await serving.get(hydra, "backfill", room_id, query=query)).json["pdus"]) == ["3", "2"]
    assert (await serving.get(hydra, "event", sent[0])).status == 404
    assert (await serving.get(hydra, "event", sent[1])).status == 404
    assert (await serving.get(hydra, "event", sent[2])).status == 200
    assert (await serving.get(hydra, "event_auth", room_id, sent[0])).status == 404
    for event_id in sent[:2]:
        answer = await serving.get(hydra, "state_ids", room_id, query=[("event_id", event_id)])
        assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")


async def test_no_state_is_told_while_members_are_not_known(serving: Reading, hydra: Visitor) -> None:
    """A state without its members would be taken for the whole."""
    room_id = await serving.room()
    assert (await hydra.join(room_id)).status == 200
    message = await serving.say(room_id, "hello")
    room = await serving.house.room(room_id)
    room.head.partial_servers = frozenset({"hydra.test"})
    for name in ("state", "state_ids"):
        answer = await serving.get(hydra, name, room_id, query=[("event_id", message)])
        assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")


class Counting(AncestorStore):
    """Counts its queries and what they gave."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.queries = 0
        self.rows = 0

    async def below(self, room: int, event_ids: Sequence[str], limit: int) -> list[StoredEvent]:
        found = await super().below(room, event_ids, limit)
        self.queries, self.rows = self.queries + 1, self.rows + len(found)
        return found

    async def by_ids(self, room: int, event_ids: Sequence[str]) -> list[StoredEvent]:
        found = await super().by_ids(room, event_ids)
        self.queries, self.rows = self.queries + 1, self.rows + len(found)
        return found


async def test_a_walk_is_bounded_whatever_depths_are_claimed(serving: Reading, hydra: Visitor) -> None:
    """One query for an ordinary stretch; a handful, and few events, where every event claims another depth."""
    room_id = await serving.room()
    assert (await hydra.join(room_id)).status == 200
    ordinary = await serving.say(room_id, "ordinary")
    key = (await serving.house.room(room_id)).key
    store = Counting(serving.database)
    found = await Walk(start=[ordinary], limit=5, order=newest_first, with_start=True).run(store, key)
    assert (len(found), store.queries) == (5, 1)
    last = ordinary
    for number in range(12):
        last = await answer_to(serving, hydra, [last], str(number), depth=1000 + 100 * number)
    lowest = await answer_to(serving, hydra, [last], "low", depth=3)
    store = Counting(serving.database)
    found = await Walk(start=[lowest], limit=20, order=nearest_first, with_start=False).run(store, key)
    assert store.queries <= 6
    assert store.rows <= 6 * 41
    assert 1 <= len(found) <= 20
