# SPDX-License-Identifier: Apache-2.0
"""Every endpoint of other servers that is called: what is asked, and which answers are taken."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from federation.client.calls import FederationCalls
from federation.client.errors import BadAnswer, RemoteError, RemoteFailure
from tests.federation.client.ours import Ours
from tests.federation.servers import Received, Refused


@pytest.fixture
def ours() -> Ours:
    """A fresh one."""
    return Ours()


Call = Callable[[FederationCalls], Awaitable[Any]]
H = "hydra.test"
PDU = {"type": "m.room.member"}
CALLS: list[tuple[str, str, Any, Call]] = [
    (
        "GET",
        "/v1/make_join/{r}/{u}",
        {"room_version": "11", "event": PDU},
        lambda c: c.make_membership(H, "join", "!r", "@u", versions=["11"]),
    ),
    (
        "GET",
        "/v1/make_knock/{r}/{u}",
        {"room_version": "11", "event": PDU},
        lambda c: c.make_membership(H, "knock", "!r", "@u", versions=["11"]),
    ),
    ("GET", "/v1/make_leave/{r}/{u}", {"event": PDU}, lambda c: c.make_membership(H, "leave", "!r", "@u")),
    (
        "PUT",
        "/v2/send_join/{r}/{e}",
        {"state": [PDU], "auth_chain": [PDU]},
        lambda c: c.send_join(H, "!r", "$e", PDU),
    ),
    (
        "PUT",
        "/v1/send_knock/{r}/{e}",
        {"knock_room_state": [PDU]},
        lambda c: c.send_knock(H, "!r", "$e", PDU),
    ),
    ("PUT", "/v2/invite/{r}/{e}", {"event": PDU}, lambda c: c.invite(H, "!r", "$e", PDU, room_version="11")),
    ("GET", "/v1/event/{e}", {"pdus": [PDU]}, lambda c: c.event(H, "$e")),
    ("GET", "/v1/state/{r}", {"pdus": [PDU], "auth_chain": []}, lambda c: c.state(H, "!r", "$e")),
    (
        "GET",
        "/v1/state_ids/{r}",
        {"pdu_ids": ["$a"], "auth_chain_ids": []},
        lambda c: c.state_ids(H, "!r", "$e"),
    ),
    ("GET", "/v1/event_auth/{r}/{e}", {"auth_chain": [PDU]}, lambda c: c.event_auth(H, "!r", "$e")),
    ("GET", "/v1/backfill/{r}", {"pdus": [PDU]}, lambda c: c.backfill(H, "!r", ["$e", "$f"], 10)),
    (
        "POST",
        "/v1/get_missing_events/{r}",
        {"events": [PDU]},
        lambda c: c.get_missing_events(H, "!r", earliest=["$a"], latest=["$b"], limit=5, min_depth=0),
    ),
    (
        "GET",
        "/v1/timestamp_to_event/{r}",
        {"event_id": "$e", "origin_server_ts": 5},
        lambda c: c.timestamp_to_event(H, "!r", 5, "b"),
    ),
    (
        "GET",
        "/v1/query/profile",
        {"displayname": "x"},
        lambda c: c.query_profile(H, "@u:hydra.test", "displayname"),
    ),
    (
        "GET",
        "/v1/query/directory",
        {"room_id": "!r", "servers": ["a"]},
        lambda c: c.query_directory(H, "#a:hydra.test"),
    ),
    (
        "GET",
        "/v1/publicRooms",
        {"chunk": [{}]},
        lambda c: c.public_rooms(H, limit=5, since="x", include_all_networks=True),
    ),
    (
        "POST",
        "/v1/publicRooms",
        {"chunk": [{}]},
        lambda c: c.public_rooms(H, search={"generic_search_term": "x"}),
    ),
    (
        "GET",
        "/v1/hierarchy/{r}",
        {"room": {}, "children": [{}], "inaccessible_children": ["!x"]},
        lambda c: c.hierarchy(H, "!r", suggested_only=True),
    ),
    (
        "GET",
        "/v1/user/devices/{u}",
        {"user_id": "@u", "stream_id": 5, "devices": [{}]},
        lambda c: c.user_devices(H, "@u"),
    ),
    ("POST", "/v1/user/keys/query", {"device_keys": {"@u": {}}}, lambda c: c.keys_query(H, {"@u": []})),
    (
        "POST",
        "/v1/user/keys/claim",
        {"one_time_keys": {"@u": {}}},
        lambda c: c.keys_claim(H, {"@u": {"D": "signed_curve25519"}}),
    ),
    ("GET", "/v1/version", {"server": {"name": "Hydra"}}, lambda c: c.version(H)),
    ("PUT", "/v1/send/{t}", {"pdus": {"$e": {}}}, lambda c: c.send_transaction(H, "t", {"pdus": []})),
]
IDS = [f"{method} {path}" for method, path, _, _ in CALLS]


@pytest.mark.parametrize(("method", "path", "answer", "call"), CALLS, ids=IDS)
async def test_each_call_reads_what_the_specification_shows(
    ours: Ours, method: str, path: str, answer: Any, call: Call
) -> None:
    """Its endpoint is asked once, and the answer read."""
    ours.answer(method, path, answer)
    await call(ours.calls)
    assert len(ours.hydra.received) == 1


@pytest.mark.parametrize(("method", "path", "answer", "call"), CALLS, ids=IDS)
async def test_each_call_refuses_another_shape(
    ours: Ours, method: str, path: str, answer: Any, call: Call
) -> None:
    """Not an object, a field of another type, a list with something else in it: BadAnswer, and nothing else."""
    broken: list[Any] = [[], None, 5, "x"]
    if "profile" not in path:  # whose fields are anybody's
        broken += [{**answer, name: "x" if type(value) is int else 5} for name, value in answer.items()]
        broken += [{**answer, name: [5]} for name, value in answer.items() if type(value) is list]
    for value in broken:
        ours.answer(method, path, value)
        with pytest.raises(BadAnswer):
            await call(ours.calls)


async def test_servers_that_know_only_the_first_version(ours: Ours) -> None:
    """send_join, send_leave and invite go back to v1, whose answers come in pairs."""
    ours.answer(
        "PUT", "/v1/send_join/{r}/{e}", [200, {"state": [], "auth_chain": [], "members_omitted": False}]
    )
    ours.answer("PUT", "/v1/send_leave/{r}/{e}", [200, {}])
    ours.answer("PUT", "/v1/invite/{r}/{e}", [200, {"event": {"signed": 1}}])
    assert (await ours.calls.send_join(H, "!r", "$e", PDU)).event is None
    await ours.calls.send_leave(H, "!r", "$e", PDU)
    state = [{"type": "m.room.name"}]
    signed = await ours.calls.invite(H, "!r", "$e", PDU, room_version="1", invite_room_state=state)
    assert signed == {"signed": 1}
    assert ours.hydra.received[-1].json == {**PDU, "unsigned": {"invite_room_state": state}}
    with pytest.raises(RemoteError):
        await ours.calls.invite(H, "!r", "$e", PDU, room_version="11")


async def test_a_refused_join_is_not_tried_as_an_older_one(ours: Ours) -> None:
    """Only an endpoint that is unknown is a reason to."""

    def refuse(_request: Received) -> Any:
        raise Refused(404, "M_NOT_FOUND")

    ours.hydra.on("PUT", "/_matrix/federation/v2/send_join/{r}/{e}", refuse)
    with pytest.raises(RemoteFailure):
        await ours.calls.send_join(H, "!r", "$e", PDU, omit_members=True)
    (request,) = ours.hydra.received
    assert request.query == {"omit_members": ["true"]}


async def test_a_partial_join_names_the_servers(ours: Ours) -> None:
    """Members may be left out only together with who is there."""
    answer = {
        "state": [],
        "auth_chain": [],
        "event": PDU,
        "members_omitted": True,
        "servers_in_room": ["a.test"],
    }
    ours.answer("PUT", "/v2/send_join/{r}/{e}", answer)
    joined = await ours.calls.send_join(H, "!r", "$e", PDU, omit_members=True)
    assert (joined.event, joined.servers_in_room) == (PDU, ["a.test"])
    ours.answer("PUT", "/v2/send_join/{r}/{e}", {**answer, "servers_in_room": None})
    with pytest.raises(BadAnswer):
        await ours.calls.send_join(H, "!r", "$e", PDU, omit_members=True)
