# SPDX-License-Identifier: Apache-2.0
"""Requests of other servers at the real web server: let in when signed by whom they say, and at what cost else."""

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults

from federation.authentication import MOST_WAITING_BY_ADDRESS
from homeserver.protocol.signing import SigningKey
from homeserver.web.rate_limits import Limit
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, Auth, Route
from storage.database import Database
from tests.federation.keys.world import MINUTE, US, World, asked_for_keys
from tests.federation.servers import RemoteServer, make_key
from tests.federation.site import FederationSite
from tests.reactor import run

ECHO = "/_matrix/federation/v1/echo/hello"


@pytest.fixture
def hydra() -> RemoteServer:
    """A server like others."""
    return RemoteServer("hydra.test")


@pytest.fixture
def world(database: Database, hydra: RemoteServer) -> World:
    """Ours, in a network with it."""
    return World(database, hydra)


@pytest.fixture
def site(world: World) -> Iterator[FederationSite]:
    """Our web server."""
    site = FederationSite(world)
    yield site
    run(site.stop())


async def test_a_signed_request_is_let_in(site: FederationSite, hydra: RemoteServer) -> None:
    """With and without a body, with a query, with characters that are encoded; the handler learns who asks."""
    for method, target, content in (
        ("GET", ECHO, None),
        ("GET", ECHO + "?a=%2F&b=c%20d&b=", None),
        ("GET", "/_matrix/federation/v1/echo/%24event%3Ahydra.test", None),
        ("PUT", ECHO, {"ä": [1, {"b": "\u2028"}], "empty": {}}),
        ("POST", ECHO, {}),
    ):
        answer = await site.signed(hydra, method, target, content)
        assert (answer.status, answer.json["origin"], answer.json["body"]) == (200, "hydra.test", content)
    assert asked_for_keys(hydra) == 1


async def test_numbers_arrive_as_they_were_sent(world: World, hydra: RemoteServer) -> None:
    """Old room versions allow any integer and floats; the signature covers them, and so does what the handler sees."""
    seen: list[Any] = []

    async def look(request: MatrixRequest) -> Reply:
        seen.append(request.json_object())
        return {}

    route = Route("PUT", "/look", look, under=FEDERATION_V1, auth=Auth.SERVER, resource="federation")
    site = FederationSite(world, (route,))
    content = {"wide": 2**64 + 1, "negative": -(10**30), "float": 1e100, "exact": 2**63 - 1, "one": 1.0}
    answer = await site.signed(hydra, "PUT", "/_matrix/federation/v1/look", content)
    assert answer.status == 200
    assert seen == [content]
    assert [type(value) for value in seen[0].values()] == [int, int, float, int, float]
    await site.stop()


async def test_without_destination_as_of_old(site: FederationSite, hydra: RemoteServer) -> None:
    """Accepted, as the specification asks."""
    assert (await site.signed(hydra, "PUT", ECHO, {"a": 1}, destination=None)).status == 200


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"destination": "other.test"}, "for another server"),
        ({"raw": b'{"a": 2}'}, "does not match"),
        ({"raw": b""}, "does not match"),
        ({"sent_target": ECHO + "?x=1"}, "does not match"),
        ({"sent_target": ECHO.replace("hello", "h%65llo")}, "does not match"),
        ({"sig": "AAAA"}, "does not match"),
        ({"key": "ed25519:other"}, "No valid key"),
        ({"key": "rsa:test"}, "ed25519"),
        ({"key": "nonsense"}, "not a key id"),
        ({"origin": "us.test"}, "this server itself"),
        ({"origin": "gone.test"}, "No valid key"),
        ({"origin": "../evil"}, "not a server name"),
    ],
)
async def test_what_is_not_as_it_was_signed_is_refused(
    site: FederationSite, hydra: RemoteServer, changes: dict[str, Any], sentence: str
) -> None:
    """401 M_UNAUTHORIZED, with a sentence that helps the other administrator."""
    answer = await site.signed(hydra, "PUT", ECHO, {"a": 1}, **changes)
    assert (answer.status, answer.errcode) == (401, "M_UNAUTHORIZED")
    assert sentence in answer.json["error"]


async def test_a_request_signed_for_another_server_is_no_request_for_us(
    site: FederationSite, hydra: RemoteServer
) -> None:
    """Whoever got it cannot pass it on by leaving the destination away or writing ours."""
    elsewhere = hydra.authorization("other.test", "PUT", ECHO, {"a": 1})
    ours = elsewhere.replace('destination="other.test"', f'destination="{US}"')
    none = elsewhere.replace(',destination="other.test"', "")
    assert none != elsewhere
    for header in (elsewhere, ours, none):
        answer = await site.request("PUT", ECHO, body=b'{"a":1}', headers={"Authorization": header})
        assert answer.status == 401


async def test_no_signature_or_a_token_lets_nobody_in(site: FederationSite) -> None:
    """Users do not act for servers."""
    for headers in ({}, {"Authorization": "Bearer alice"}):
        answer = await site.request("GET", ECHO, headers=headers)
        assert (answer.status, answer.errcode) == (401, "M_UNAUTHORIZED")


async def test_bodies_that_nobody_can_have_signed(site: FederationSite, hydra: RemoteServer) -> None:
    """NaN, bottomless nesting, not JSON at all."""
    for raw in (b'{"a": NaN}', b'{"a": Infinity}', b"[" * 500 + b"]" * 500, b"{", b"\xff", b'{"a": 1e400}'):
        answer = await site.signed(hydra, "PUT", ECHO, {"a": 1}, raw=raw)
        assert (answer.status, answer.errcode) in {(400, "M_NOT_JSON"), (400, "M_BAD_JSON")}


async def test_several_signatures(site: FederationSite, hydra: RemoteServer, world: World) -> None:
    """One per key: unknown keys are passed over, those known must all hold, and they are of one server."""

    def header(key: SigningKey, name: str = "hydra.test") -> str:
        return RemoteServer(name, key=key).authorization(US, "GET", ECHO)

    async def status(*headers: str) -> int:
        connection = await site.connect()
        lines = "".join(f"Authorization: {each}\r\n" for each in headers)
        connection.send(f"GET {ECHO} HTTP/1.1\r\nHost: us.test\r\n{lines}\r\n".encode())
        answer = await connection.response()
        connection.drop()
        return answer.status

    good, unknown = header(hydra.key), header(make_key("x", "ed25519:unknown"))
    assert await status(good, unknown) == await status(unknown, good) == 200
    assert await status("Bearer abc", good) == 200
    bad = good.replace('key="ed25519:test"', 'key="ed25519:second"')
    assert await status(good, bad) == 200
    second = make_key("second", "ed25519:second")
    keys = {key.key_id: {"key": key.verify_key.to_base64()} for key in (hydra.key, second)}
    hydra.on("GET", "/_matrix/key/v2/server", lambda _request: hydra.key_response(verify_keys=keys))
    world.clock.now += 2 * MINUTE
    await world.keyring.refresh(["hydra.test"])
    assert await status(good, header(second)) == 200
    assert await status(good, bad) == 401
    assert await status(good, header(make_key("y", "ed25519:y"), "other.test")) == 401
    assert await status(good, good) == 401
    assert await status(*(header(make_key(str(n), f"ed25519:n{n}")) for n in range(5))) == 401


async def test_a_server_set_up_anew_under_the_same_key_id(
    site: FederationSite, hydra: RemoteServer, world: World
) -> None:
    """Its requests fail until it may be asked again, not until the old key expires."""
    assert (await site.signed(hydra, "GET", ECHO)).status == 200
    hydra.key = make_key("anew", hydra.key.key_id)
    assert (await site.signed(hydra, "GET", ECHO)).status == 401
    assert asked_for_keys(hydra) == 1
    world.clock.now += 2 * MINUTE
    assert (await site.signed(hydra, "GET", ECHO)).status == 200


async def test_an_expired_key_lets_nobody_in(site: FederationSite, hydra: RemoteServer, world: World) -> None:
    """Nor one that its server calls old."""
    hydra.valid_for_ms = 5 * MINUTE
    assert (await site.signed(hydra, "GET", ECHO)).status == 200
    hydra.reachable = False
    world.clock.now += 6 * MINUTE
    assert (await site.signed(hydra, "GET", ECHO)).status == 401
    old, hydra.key = hydra.key, make_key("new", "ed25519:new")
    hydra.old_keys[old.key_id] = (old.verify_key, world.clock.now)
    hydra.reachable, hydra.valid_for_ms = True, 60 * MINUTE
    world.clock.now += 11 * MINUTE
    assert (await site.signed(hydra, "GET", ECHO)).status == 200
    assert (await site.signed(RemoteServer("hydra.test", key=old), "GET", ECHO)).status == 401


async def test_forgeries_are_paid_for_by_their_address(world: World, hydra: RemoteServer) -> None:
    """After some of them nothing more of there is looked at for a while, the sooner the larger they are."""
    site = FederationSite(world, limits={"server_unproven": Limit(0.001, 5)})
    for _ in range(3):
        assert (await site.signed(hydra, "PUT", ECHO, {"a": 1}, sig="AAAA")).status == 401
    large = {"a": "x" * 1_000_000}
    assert (await site.signed(hydra, "PUT", ECHO, large, sig="AAAA")).status == 401
    assert (await site.signed(hydra, "PUT", ECHO, {"a": 1})).status == 429
    await site.stop()


async def test_naming_servers_is_limited_by_address(world: World) -> None:
    """Every name costs us a search for that server."""
    site = FederationSite(world, limits={"key_fetches": Limit(0.001, 3)})
    statuses = [(await site.signed(RemoteServer(f"s{n}.test"), "GET", ECHO)).status for n in range(5)]
    assert statuses == [401, 401, 401, 429, 429]
    await site.stop()


async def test_few_requests_of_one_address_wait_for_keys(world: World, site: FederationSite) -> None:
    """Their bodies are in memory meanwhile."""
    gate: Deferred[None] = Deferred()

    async def hold(*_request: str) -> None:
        await gate

    world.network.before = hold
    servers = [RemoteServer(f"s{n}.test") for n in range(MOST_WAITING_BY_ADDRESS + 2)]
    for server in servers:
        world.network.add(server)
    statuses: list[int] = []
    some_refused: Deferred[None] = Deferred()

    async def ask(server: RemoteServer) -> None:
        statuses.append((await site.signed(server, "GET", ECHO)).status)
        if len(statuses) == 2:
            some_refused.callback(None)

    asked = [Deferred.fromCoroutine(ask(server)) for server in servers]
    await some_refused
    assert statuses == [429, 429]
    gate.callback(None)
    await gatherResults(asked)
    assert statuses[2:] == [200] * MOST_WAITING_BY_ADDRESS


async def test_each_server_has_its_own_rate(world: World, hydra: RemoteServer) -> None:
    """One that floods does not slow another, though both come through one proxy."""
    site = FederationSite(world, limits={"server_reads": Limit(0.001, 2)})
    other = world.network.add(RemoteServer("other.test"))
    assert [(await site.signed(hydra, "GET", ECHO)).status for _ in range(3)] == [200, 200, 429]
    assert (await site.signed(other, "GET", ECHO)).status == 200
    await site.stop()


async def test_our_keys_and_those_we_know(site: FederationSite, hydra: RemoteServer, world: World) -> None:
    """The key API over HTTP, in every form, and what is no sensible question."""
    base = "/_matrix/key/v2"
    for path in ("/server", "/server/", "/server/ed25519:ours"):
        answer = await site.request("GET", base + path)
        assert answer.status == 200
        assert answer.json["verify_keys"] == {
            "ed25519:ours": {"key": world.own.signing_key.verify_key.to_base64()}
        }
    one = await site.request("GET", f"{base}/query/hydra.test?minimum_valid_until_ts={world.clock.now}")
    assert [each["server_name"] for each in one.json["server_keys"]] == ["hydra.test"]
    assert (await site.request("GET", f"{base}/query/hydra.test/{hydra.key.key_id}")).json == one.json
    assert (await site.request("GET", f"{base}/query/no%2Fname")).errcode == "M_INVALID_PARAM"
    wanted = (
        b'{"server_keys": {"hydra.test": {"ed25519:test": {"minimum_valid_until_ts": 5}}, "no/name": {}}}'
    )
    many = await site.request("POST", f"{base}/query", body=wanted)
    assert many.json == one.json
    for body, status in (
        (b"{}", 400),
        (b'{"server_keys": []}', 400),
        (b'{"server_keys": {"a.test": []}}', 400),
        (b'{"server_keys": {"a.test": {"k": {"minimum_valid_until_ts": "5"}}}}', 400),
        (b'{"server_keys": {%s}}' % b",".join(b'"a%d.test": {}' % n for n in range(201)), 413),
    ):
        assert (await site.request("POST", f"{base}/query", body=body)).status == status
