# SPDX-License-Identifier: Apache-2.0
"""What others say of others: useful where a server is away, and never against a server's own word."""

from collections.abc import Callable
from typing import Any

import pytest

from homeserver.protocol.signing import sign_json
from storage.database import Database
from tests.federation.keys.world import DAY, MINUTE, World, asked_for_keys
from tests.federation.servers import Received, Refused, RemoteServer, make_key

TEST_KEY = "ed25519:test"
Answers = Callable[[Received], list[dict[str, Any]]]


def notary(answers: Answers, name: str = "notary.test") -> RemoteServer:
    """A notary that signs what `answers` gives it to say."""
    server = RemoteServer(name)

    def query(request: Received) -> dict[str, Any]:
        return {"server_keys": [sign_json(each, server.name, server.key) for each in answers(request)]}

    server.on("POST", "/_matrix/key/v2/query", query)
    return server


async def test_a_notary_knows_the_keys_of_a_server_that_is_away(database: Database) -> None:
    """It is asked after the server itself, in one request about all that are missing, for what is missing."""
    away = [RemoteServer(f"away{n}.test") for n in range(3)]
    there = RemoteServer("there.test")
    said = notary(lambda _request: [each.key_response() for each in away])
    world = World(database, there, said, notaries=["notary.test"])
    events = [each.pdu(version="11", room_id="!r:x.test").event for each in (*away, there)]
    assert await world.keyring.verify_events(events) == [None] * 4
    (request,) = said.requests("POST", "/_matrix/key/v2/query")
    wanted = {
        each.name: {TEST_KEY: {"minimum_valid_until_ts": e.origin_server_ts}}
        for each, e in zip(away, events[:3], strict=True)
    }
    assert request.json == {"server_keys": wanted}
    assert asked_for_keys(there) == 1


async def test_a_crowd_of_unknown_servers_is_asked_for_at_the_notary_first(database: Database) -> None:
    """So that the dead among them hold up nobody; those the notary does not know are asked themselves."""
    servers = [RemoteServer(f"s{n}.test") for n in range(60)]
    said = notary(
        lambda request: [
            each.key_response() for each in servers[:50] if each.name in request.json["server_keys"]
        ]
    )
    world = World(database, *servers, said, notaries=["notary.test"])
    events = [each.pdu(version="11", room_id="!r:x.test").event for each in servers]
    assert await world.keyring.verify_events(events) == [None] * 60
    assert [asked_for_keys(each) for each in servers] == [0] * 50 + [1] * 10
    assert len(said.requests("POST", "/_matrix/key/v2/query")) == 2


@pytest.mark.parametrize(
    "lie", ["unsigned", "badly signed", "about another", "of itself", "rubbish", "refused"]
)
async def test_a_notary_that_makes_no_sense_is_passed_over(database: Database, lie: str) -> None:
    """The next one is asked."""
    hydra, other = RemoteServer("hydra.test"), RemoteServer("other.test")
    bad, good = RemoteServer("bad.test"), notary(lambda _request: [hydra.key_response()], "good.test")

    def query(_request: Received) -> Any:
        if lie == "refused":
            raise Refused(500)
        if lie == "rubbish":
            return {"server_keys": {"a": 1}}
        given = {"about another": other, "of itself": bad}.get(lie, hydra).key_response()
        if lie == "badly signed":
            given = sign_json(given, "bad.test", make_key("not its key", TEST_KEY))
        return {"server_keys": [given if lie == "unsigned" else sign_json(given, "bad.test", bad.key)]}

    if lie == "badly signed":
        query_key = make_key("not its key", TEST_KEY)
        bad.on(
            "POST",
            "/_matrix/key/v2/query",
            lambda _request: {"server_keys": [sign_json(hydra.key_response(), "bad.test", query_key)]},
        )
    else:
        bad.on("POST", "/_matrix/key/v2/query", query)
    world = World(database, bad, good, notaries=["bad.test", "good.test"])
    assert await world.keyring.request_keys("hydra.test", [TEST_KEY])
    assert len(good.requests("POST", "/_matrix/key/v2/query")) == 1
    assert not await world.store.get(["other.test"])


async def test_a_lying_notary_cannot_replace_a_known_key(database: Database) -> None:
    """Poisoning: it says of a server we know that another key stands under that id."""
    hydra = RemoteServer("hydra.test")
    hydra.valid_for_ms = 60 * MINUTE
    impostor = RemoteServer("hydra.test", key=make_key("impostor", TEST_KEY))
    said = notary(lambda _request: [impostor.key_response()])
    world = World(database, hydra, said, notaries=["notary.test"])
    assert await world.keyring.request_keys("hydra.test", [TEST_KEY])
    hydra.reachable = False
    world.clock.now += 2 * 60 * MINUTE
    assert not await world.keyring.request_keys("hydra.test", [TEST_KEY])
    assert len(said.requests("POST", "/_matrix/key/v2/query")) == 1
    keys = await world.store.get(["hydra.test"])
    assert [key.public_key for key in keys] == [bytes(hydra.key.verify_key._key)]
    forged = impostor.pdu(version="11", room_id="!r:x.test").event
    assert await world.keyring.verify_events([forged]) != [None]


async def test_a_servers_own_word_ends_what_a_notary_made_up(database: Database) -> None:
    """As soon as the server is heard itself, the key a notary put under the same id is gone for good."""
    hydra = RemoteServer("hydra.test")
    impostor = RemoteServer("hydra.test", key=make_key("impostor", TEST_KEY))
    impostor.valid_for_ms = 60 * MINUTE
    said = notary(lambda _request: [impostor.key_response()])
    world = World(database, said, notaries=["notary.test"])
    forged = impostor.pdu(version="11", room_id="!r:x.test").event
    assert await world.keyring.verify_events([forged]) == [None]
    world.network.add(hydra)
    world.clock.now += 2 * 60 * MINUTE
    keys = await world.keyring.request_keys("hydra.test", [TEST_KEY])
    assert keys[TEST_KEY].to_base64() == hydra.key.verify_key.to_base64()
    assert await world.keyring.verify_events([forged]) != [None]


async def test_a_notary_cannot_revive_a_key_its_server_gave_up(database: Database) -> None:
    """Who stole an old key needs more than a notary."""
    hydra = RemoteServer("hydra.test")
    thief = RemoteServer("hydra.test")
    said = notary(lambda _request: [thief.key_response()])
    world = World(database, hydra, said, notaries=["notary.test"])
    hydra.old_keys[TEST_KEY] = (hydra.key.verify_key, world.clock.now - DAY)
    hydra.key = make_key("new", "ed25519:new")
    assert await world.keyring.request_keys("hydra.test", ["ed25519:new"])
    hydra.reachable = False
    world.clock.now += 10 * MINUTE
    assert not await world.keyring.request_keys("hydra.test", [TEST_KEY])
    assert len(said.requests("POST", "/_matrix/key/v2/query")) == 1


async def test_a_notary_prolongs_a_key_while_its_server_is_away(database: Database) -> None:
    """The key we know from the server, still in use as far as the notary knows."""
    hydra = RemoteServer("hydra.test")
    hydra.valid_for_ms = 60 * MINUTE
    said = notary(lambda _request: [hydra.key_response()])
    world = World(database, hydra, said, notaries=["notary.test"])
    assert await world.keyring.request_keys("hydra.test", [TEST_KEY])
    hydra.reachable = False
    hydra.valid_for_ms = 3 * 60 * MINUTE
    world.clock.now += 2 * 60 * MINUTE
    assert await world.keyring.request_keys("hydra.test", [TEST_KEY])


async def test_we_pass_on_what_servers_told_us(database: Database) -> None:
    """Signed by them and by us, ours among them; what a notary told us is not passed on as if we had heard it."""
    hydra, away = RemoteServer("hydra.test"), RemoteServer("away.test")
    said = notary(lambda _request: [away.key_response()])
    world = World(database, hydra, said, notaries=["notary.test"])
    assert await world.keyring.request_keys("away.test", [TEST_KEY])
    answers = await world.notary.query({"hydra.test": {}, "us.test": {}, "away.test": {}, "gone.test": {}})
    by_name = {each["server_name"]: each for each in answers}
    assert set(by_name) == {"hydra.test", "us.test"}
    assert set(by_name["hydra.test"]["signatures"]) == {"hydra.test", "us.test"}
    assert await world.notary.query({}) == []


async def test_as_a_notary_we_ask_again_when_it_helps(database: Database) -> None:
    """When half the answer's life is over, for a longer validity, for a key that is not in it; else not."""
    hydra = RemoteServer("hydra.test")
    hydra.valid_for_ms = 60 * MINUTE
    world = World(database, hydra)
    await world.notary.query({"hydra.test": {}})
    world.clock.now += 10 * MINUTE
    await world.notary.query({"hydra.test": {}})
    await world.notary.query({"hydra.test": {"": 0, TEST_KEY: world.clock.now}})
    assert asked_for_keys(hydra) == 1
    await world.notary.query({"hydra.test": {"": world.clock.now + DAY}})
    assert asked_for_keys(hydra) == 2
    world.clock.now += 2 * MINUTE
    await world.notary.query({"hydra.test": {"ed25519:new": 0}})
    assert asked_for_keys(hydra) == 3
    world.clock.now += 31 * MINUTE
    hydra.reachable = False
    (stale,) = await world.notary.query({"hydra.test": {}})
    assert stale["server_name"] == "hydra.test"


async def test_one_query_has_few_servers_asked(database: Database) -> None:
    """The rest are answered from what is known."""
    servers = [RemoteServer(f"s{n}.test") for n in range(30)]
    world = World(database, *servers)
    answers = await world.notary.query({each.name: {} for each in servers})
    assert len(answers) == sum(map(asked_for_keys, servers)) == 20
