# SPDX-License-Identifier: Apache-2.0
"""Asking a policy server: what is sent, what is believed, what a client is told, and how often anybody is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from federation.policy_servers import (
    FIRST_REST,
    LONGEST_REST,
    RECEIVED_AT_ONCE,
    RECEIVED_LIMIT,
    RECEIVED_PATIENCE,
    FederatedPolicyServers,
)
from homeserver.errors import Forbidden, LimitExceeded, MatrixError, RefusedElsewhere, RemoteServerFailed
from homeserver.protocol.events import Event
from homeserver.protocol.policy_servers import PolicyServer
from homeserver.protocol.room_versions import room_version
from homeserver.protocol.signing import POLICY_KEY_ID
from homeserver.rooms.engine.recommending import Refusal
from tests.federation.client.ours import Ours
from tests.federation.keys.world import KEY as OUR_KEY
from tests.federation.keys.world import US
from tests.federation.servers import Received, Refused, make_key
from tests.protocol.pdus import a_pdu
from tests.rooms.policy_fixture import KEY, signature

SIGN = "/_matrix/policy/v1/sign"
HYDRA = "hydra.test"
VERSION = room_version("11")


def policy_server(via: str = HYDRA, key: str = KEY.verify_key.to_base64()) -> PolicyServer:
    found = PolicyServer.from_content({"via": via, "public_keys": {"ed25519": key}})
    assert found is not None
    return found


def event(number: int = 0, server: str = "domain") -> Event:
    return Event.from_pdu(a_pdu(VERSION, sender=f"@alice:{server}", signatures={}, depth=1 + number), VERSION)


class World:
    """This server beside a policy server that answers as it is told to."""

    def __init__(self) -> None:
        self.ours = Ours()
        self.clock = Clock()
        self.asking = FederatedPolicyServers(server_name=US, calls=self.ours.calls, clock=self.clock.seconds)
        self.answers: Callable[[Received], Any] = self.sign
        self.ours.hydra.on("POST", SIGN, self._answer)

    def _answer(self, request: Received) -> Any:
        return self.answers(request)

    @staticmethod
    def sign(request: Received) -> Any:
        return {HYDRA: {POLICY_KEY_ID: signature(Event.from_pdu(request.json, VERSION))}}

    @property
    def asked(self) -> int:
        return len(self.ours.hydra.requests("POST", SIGN))

    def answer(self, value: Any) -> None:
        """The same to everything; an exception is raised."""

        def give(_request: Received) -> Any:
            if isinstance(value, Exception):
                raise value
            return value

        self.answers = give

    async def refused(self) -> MatrixError:
        with pytest.raises(MatrixError) as refusal:
            await self.asking.sign(policy_server(), event())
        return refusal.value


@pytest.fixture
def world() -> World:
    return World()


async def test_the_request(world: World) -> None:
    """The event as it would be sent, signed by this server."""
    mine = event()
    assert await world.asking.sign(policy_server(), mine) == signature(mine)
    (request,) = world.ours.hydra.requests("POST", SIGN)
    assert request.json == mine.pdu
    request.check_signature(HYDRA, {OUR_KEY.key_id: OUR_KEY.verify_key})


VERBATIM = [
    (400, "M_FORBIDDEN", {}),
    (400, "M_BAD_JSON", {}),
    (403, "M_FORBIDDEN", {}),
    (404, "M_NOT_FOUND", {}),
    (404, "M_UNRECOGNIZED", {}),
    (400, "ORG.EXAMPLE.SPAM", {}),
    (429, "M_LIMIT_EXCEEDED", {}),
    (429, "M_LIMIT_EXCEEDED", {"retry_after_ms": 1234}),
]


@pytest.mark.parametrize(("status", "errcode", "fields"), VERBATIM)
async def test_a_refusal_is_told_verbatim(
    world: World, status: int, errcode: str, fields: dict[str, Any]
) -> None:
    world.answer(Refused(status, errcode, "That looks like spam", **fields))
    told = await world.refused()
    assert told.as_dict() == {"errcode": errcode, "error": "That looks like spam", **fields}
    if isinstance(told, RefusedElsewhere):
        assert told.status == status
    else:
        assert isinstance(told, LimitExceeded) and status == 429


@pytest.mark.parametrize("errcode", ["M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_USER_LOCKED"])
@pytest.mark.parametrize("status", [400, 401, 403])
async def test_no_client_is_logged_out_by_it(world: World, status: int, errcode: str) -> None:
    """Clients act on such codes whatever they asked for."""
    world.answer(Refused(status, errcode, "go away", soft_logout=False))
    told = await world.refused()
    assert isinstance(told, RefusedElsewhere)
    assert told.as_dict() == {"errcode": "M_FORBIDDEN", "error": "go away"}
    assert told.status in (400, 403)


@pytest.mark.parametrize("wait", [10**12, -5, 1.5, "soon", None])
async def test_nobody_is_made_to_wait_for_ever(world: World, wait: Any) -> None:
    world.answer(Refused(429, "M_LIMIT_EXCEEDED", "slower", retry_after_ms=wait))
    told = (await world.refused()).as_dict().get("retry_after_ms", 0)
    assert isinstance(told, int) and 0 <= told <= 60_000


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        b"no JSON",
        {HYDRA: {}},
        {HYDRA: {POLICY_KEY_ID: 7}},
        {HYDRA: {"ed25519:1": signature(event())}},
        {"other.test": {POLICY_KEY_ID: signature(event())}},
        {HYDRA: {POLICY_KEY_ID: signature(event(1))}},
        {HYDRA: {POLICY_KEY_ID: signature(event(), make_key("another"))}},
        Refused(500, "M_FORBIDDEN", "broken"),
        Refused(502),
    ],
)
async def test_what_is_no_signature_of_the_rooms_key_is_none(world: World, answer: Any) -> None:
    world.answer(answer)
    assert isinstance(await world.refused(), RemoteServerFailed)
    world.clock.advance(LONGEST_REST)
    given = await world.asking.sign_received(policy_server(), [event()])
    assert isinstance(given[event().event_id], Refusal)


async def test_one_that_is_down_is_not_asked_all_the_time(world: World) -> None:
    """Senders are told at once, for a while that grows from failure to failure and ends with the first answer."""
    world.ours.hydra.reachable = False
    rest = FIRST_REST

    async def attempt() -> None:
        assert isinstance(await world.refused(), RemoteServerFailed)

    for tries in range(1, 7):
        await attempt()
        assert world.ours.availability.told == ["failed"] * tries
        world.clock.advance(rest - 0.1)
        await attempt()
        assert len(world.ours.availability.told) == tries, "not asked"
        world.clock.advance(0.2)
        rest = min(rest * 2, LONGEST_REST)
    world.ours.hydra.reachable = True
    await world.asking.sign(policy_server(), event())
    world.ours.hydra.reachable = False
    await attempt()
    world.clock.advance(FIRST_REST)
    world.ours.hydra.reachable = True
    await world.asking.sign(policy_server(), event())


@pytest.mark.parametrize("named", [policy_server(via=US), policy_server(key="no key")])
async def test_where_there_is_no_point_in_asking(world: World, named: PolicyServer) -> None:
    """This server is no policy server, and nothing is signed by what is no key."""
    with pytest.raises(Forbidden, match=r"change m\.room\.policy"):
        await world.asking.sign(named, event())
    given = await world.asking.sign_received(named, [event()])
    assert isinstance(given[event().event_id], Refusal)
    assert world.asked == 0


# Events of others


async def test_each_event_is_asked_about_once(world: World) -> None:
    """Whether it is recommended or refused; but one that nobody answered about is asked about again."""
    good, bad, unlucky = event(1), event(2), event(3)

    def answers(request: Received) -> Any:
        match request.json["depth"]:
            case 2:
                return world.sign(request)
            case 3:
                raise Refused(400, "M_FORBIDDEN", "spam")
        raise Refused(429, "M_LIMIT_EXCEEDED")

    world.answers = answers
    for _ in range(3):
        given = await world.asking.sign_received(policy_server(), [good, bad, unlucky])
        assert given[good.event_id] == signature(good)
        assert given[bad.event_id] == Refusal("the room's policy server refuses it: spam")
        assert isinstance(given[unlucky.event_id], Refusal)
    assert world.asked == 5


async def test_a_few_at_once_and_not_for_long(world: World) -> None:
    """However many rooms ask about however many events."""
    held: list[Deferred[None]] = []

    async def slowly(request: Received) -> Any:
        held.append(Deferred())
        await held[-1]
        return world.sign(request)

    world.answers = slowly
    waiting = [
        Deferred.fromCoroutine(
            world.asking.sign_received(policy_server(), [event(10 * room + n) for n in range(8)])
        )
        for room in range(3)
    ]
    assert len(held) == RECEIVED_AT_ONCE
    sending = Deferred.fromCoroutine(world.asking.sign(policy_server(), event(99)))
    assert len(held) == RECEIVED_AT_ONCE + 1, "events of ours do not wait for those"
    held.pop().callback(None)
    assert await sending == signature(event(99))
    world.clock.advance(RECEIVED_PATIENCE)
    for each in held[:RECEIVED_AT_ONCE]:
        each.callback(None)
    given = [await each for each in waiting]
    assert sum(len(each) for each in given) == RECEIVED_AT_ONCE, "there was no time for the others"
    assert len(held) == RECEIVED_AT_ONCE


async def test_nobody_has_this_server_flood_a_policy_server(world: World) -> None:
    """What one server sends without signatures is asked about at a rate, whatever the room; another's is as well."""
    most = int(RECEIVED_LIMIT.burst)
    flood = [event(n, "evil.test") for n in range(most + 20)]
    given = await world.asking.sign_received(policy_server(), flood)
    assert world.asked == most
    assert sum(isinstance(answer, Refusal) for answer in given.values()) == 20
    given = await world.asking.sign_received(policy_server(), [event(0, "good.test")])
    assert list(given.values()) == [signature(event(0, "good.test"))]
    world.clock.advance(1.0)
    await world.asking.sign_received(policy_server(), [event(n, "evil.test") for n in range(9000, 9100)])
    assert world.asked == most + 1 + int(RECEIVED_LIMIT.per_second)


async def test_one_that_hangs_is_given_up_for_all_at_once(world: World) -> None:
    world.ours.hydra.reachable = False
    given = await world.asking.sign_received(policy_server(), [event(n) for n in range(40)])
    assert all(isinstance(answer, Refusal) for answer in given.values())
    assert len(world.ours.availability.told) <= RECEIVED_AT_ONCE
