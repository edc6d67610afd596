# SPDX-License-Identifier: Apache-2.0
"""Signatures of others are checked with keys that are theirs, were valid, and were fetched no oftener than needed."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, gatherResults

from federation.client.errors import Unreachable
from federation.keys.errors import KeyExpired, KeyUnknown
from federation.keys.known import LONGEST_PAUSE
from federation.keys.own import OldKey
from homeserver.protocol.errors import SignatureError
from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.protocol.signing import sign_json
from storage.database import Database
from storage.server_keys import ServerKey, ServerKeyStore
from tests.federation.keys.world import DAY, KEY, MINUTE, US, World, asked_for_keys
from tests.federation.servers import Network, RemoteServer, make_key, now_ms


def message(server: RemoteServer, *, version: str = "11", ts: int | None = None, **fields: Any) -> Event:
    """An event of the server."""
    return server.pdu(version=version, room_id="!r:hydra.test", origin_server_ts=ts, **fields).event


def changed(event: Event, **fields: Any) -> Event:
    """The event with fields that were not signed so."""
    return Event.from_pdu({**event.pdu, **fields}, event.room_version, event.event_id)


@pytest.mark.parametrize("version", list(ROOM_VERSIONS))
async def test_events_of_every_room_version(database: Database, version: str) -> None:
    """What was signed passes, what was changed afterwards does not."""
    hydra = RemoteServer("hydra.test")
    world = World(database, hydra)
    room_id = "!" + "r" * 43 if version == "12" else "!r:hydra.test"
    event = hydra.pdu(version=version, room_id=room_id).event
    assert await world.keyring.verify_events([event]) == [None]
    (error,) = await world.keyring.verify_events([changed(event, depth=7)])
    assert type(error) is SignatureError


async def test_a_batch_is_answered_in_its_order(database: Database) -> None:
    """Many events of several servers, good and bad ones mixed, of which some do not say who signed."""
    servers = [RemoteServer(f"s{n}.test") for n in range(3)]
    world = World(database, *servers)
    events, expected = [], []
    for n in range(120):
        event = message(servers[n % 3])
        bad = n % 7 == 0
        events.append(changed(event, depth=9) if bad else event)
        expected.append(bad)
    unsigned = changed(events[1], signatures={})
    outcomes = await world.keyring.verify_events([*events, unsigned])
    assert [outcome is not None for outcome in outcomes] == [*expected, True]
    assert [asked_for_keys(server) for server in servers] == [1, 1, 1]
    assert await world.another().verify_events(events[1:3]) == [None, None]
    assert [asked_for_keys(server) for server in servers] == [1, 1, 1]


async def test_an_event_forged_in_another_servers_name(database: Database) -> None:
    """CVE-2018-16515: what counts is the sender's server, not who else signed."""
    hydra, mallory = RemoteServer("hydra.test"), RemoteServer("mallory.test")
    world = World(database, hydra, mallory)
    forged = mallory.pdu(version="11", room_id="!r:hydra.test", sender="@alice:hydra.test").event
    renamed = changed(
        forged,
        signatures={"hydra.test": {"ed25519:test": forged.pdu["signatures"]["mallory.test"]["ed25519:test"]}},
    )
    outcomes = await world.keyring.verify_events([forged, renamed])
    assert all(isinstance(outcome, SignatureError) for outcome in outcomes)


async def test_many_ask_at_once_and_the_server_is_asked_once(database: Database) -> None:
    """Whoever comes while the keys are on their way waits for the same answer."""
    hydra = RemoteServer("hydra.test")
    world = World(database, hydra)
    gate: Deferred[None] = Deferred()

    async def hold(*_request: str) -> None:
        await gate

    world.network.before = hold
    asked = [Deferred.fromCoroutine(world.keyring.verify_events([message(hydra)])) for _ in range(20)]
    while len(world.keyring._fetches) == 0:
        await world.store.get([])
    world.network.before = None
    gate.callback(None)
    assert await gatherResults(asked) == [[None]] * 20
    assert asked_for_keys(hydra) == 1


async def test_who_gives_up_waiting_takes_nothing_from_others(database: Database) -> None:
    """A request that goes away, while dozens of servers are being asked for it, leaves the answers to the rest."""
    servers = [RemoteServer(f"s{n}.test") for n in range(40)]
    world = World(database, *servers)
    gate: Deferred[None] = Deferred()
    begun: list[str] = []

    async def hold(destination: str, *_request: str) -> None:
        begun.append(destination)
        if not gate.called:
            waiting: Deferred[None] = Deferred()
            gate.addCallback(lambda _: waiting.callback(None))
            await waiting

    world.network.before = hold
    events = [message(server) for server in servers]
    first = Deferred.fromCoroutine(world.keyring.verify_events(events))
    second = Deferred.fromCoroutine(world.keyring.verify_events(events[:5]))
    while len(begun) < 32:
        await world.store.get([])
    first.cancel()
    with pytest.raises(CancelledError):
        await first
    gate.callback(None)
    assert await second == [None] * 5
    assert await world.keyring.verify_events(events) == [None] * 40
    assert [asked_for_keys(server) for server in servers] == [1] * 40


class Hanging:
    """A network in which some servers accept connections and do not answer."""

    def __init__(self, world: World, *live: RemoteServer) -> None:
        self.world = world
        self.asked: list[str] = []
        self._live = {server.name for server in live}
        self._held: list[Deferred[None]] = []
        world.network.before = self._before

    async def _before(self, destination: str, *_request: str) -> None:
        self.asked.append(destination)
        if destination not in self._live:
            held: Deferred[None] = Deferred()
            self._held.append(held)
            await held

    def break_off(self) -> None:
        """Let all who have been asked until now be given up."""
        held, self._held = self._held, []
        for each in held:
            each.errback(Unreachable("evil.test", "it did not answer"))

    async def settle(self) -> None:
        """Until whatever can be begun has been."""
        for _ in range(50):
            await self.world.store.get([])


async def flood(hanging: Hanging, world: World, askers: int) -> list[Deferred[Any]]:
    """Each with fifty events of servers that do not answer."""
    made = [
        Deferred.fromCoroutine(
            world.keyring.verify_events(
                [message(RemoteServer(f"s{n}.a{asker}.evil.test")) for n in range(50)],
                asker=f"a{asker}.evil.test",
            )
        )
        for asker in range(askers)
    ]
    await hanging.settle()
    return made


def drop(made: Sequence[Deferred[Any]]) -> None:
    """Wait for it no longer."""
    for each in made:
        each.addErrback(lambda _: None)
        each.cancel()


async def test_servers_that_never_answer_keep_nobody_from_asking_others(database: Database) -> None:
    """However many servers name them in their events, and however many such events there are."""
    hydra, other = RemoteServer("hydra.test"), RemoteServer("other.test")
    world = World(database, hydra, other)
    hanging = Hanging(world, hydra, other)
    made = await flood(hanging, world, 16)
    hanging.break_off()
    await hanging.settle()
    told = Deferred.fromCoroutine(world.keyring.verify_events([message(hydra)], asker=hydra.name))
    joining = Deferred.fromCoroutine(world.keyring.verify_events([message(other)]))
    assert await told == await joining == [None]
    drop(made)


async def test_who_names_servers_alone_leaves_most_to_others(database: Database) -> None:
    """In however many calls."""
    world = World(database)
    hanging = Hanging(world)
    made = await flood(hanging, world, 1)
    more = [message(RemoteServer(f"more{n}.test")) for n in range(50)]
    made.append(Deferred.fromCoroutine(world.keyring.verify_events(more, asker="a0.evil.test")))
    await hanging.settle()
    assert len(hanging.asked) == 32
    drop(made)


async def test_what_nobody_waits_for_any_more_is_not_asked(database: Database) -> None:
    """Else who gives up and comes again with other names would fill what others wait in."""
    world = World(database)
    hanging = Hanging(world)
    drop(await flood(hanging, world, 16))
    await hanging.settle()
    assert len(hanging.asked) <= 96
    assert len(world.keyring._fetches) == len(hanging.asked)


async def test_a_request_waits_for_no_event_that_names_its_server(database: Database) -> None:
    """The server is asked in the turn of whoever comes first, and once."""
    hydra = RemoteServer("hydra.test")
    world = World(database, hydra)
    hanging = Hanging(world, hydra)
    made = await flood(hanging, world, 1)
    made.append(Deferred.fromCoroutine(world.keyring.verify_events([message(hydra)], asker="a0.evil.test")))
    await hanging.settle()
    assert hydra.name not in hanging.asked
    asking = Deferred.fromCoroutine(world.keyring.request_keys(hydra.name, ["ed25519:test"]))
    assert set(await asking) == {"ed25519:test"}
    assert await made.pop() == [None]
    assert asked_for_keys(hydra) == 1
    drop(made)


async def test_a_server_that_is_away_is_left_alone_for_a_while(database: Database) -> None:
    """Longer each time, up to ten minutes; and then its events pass."""
    hydra = RemoteServer("hydra.test")
    calls = []
    world = World(database, hydra)

    async def count(destination: str, _method: str, _target: str) -> None:
        calls.append(destination)

    world.network.before = count
    hydra.reachable = False
    for _ in range(5):
        (error,) = await world.keyring.verify_events([message(hydra)])
        assert type(error) is KeyUnknown
    assert len(calls) == 1
    world.clock.now += 31_000
    await world.keyring.verify_events([message(hydra)])
    world.clock.now += 31_000
    await world.keyring.verify_events([message(hydra)])
    assert len(calls) == 2
    hydra.reachable = True
    world.clock.now += LONGEST_PAUSE
    assert await world.keyring.verify_events([message(hydra)]) == [None]
    assert len(calls) == 3


async def test_key_ids_made_up_cost_their_server_one_request_a_minute(database: Database) -> None:
    """Anybody can name key ids of anybody."""
    hydra = RemoteServer("hydra.test")
    world = World(database, hydra)
    for n in range(50):
        assert not await world.keyring.request_keys("hydra.test", [f"ed25519:no{n}"])
    assert asked_for_keys(hydra) == 1
    world.clock.now += MINUTE + 1
    assert not await world.keyring.request_keys("hydra.test", ["ed25519:no"])
    assert asked_for_keys(hydra) == 2


async def test_an_expired_key_is_no_key(database: Database) -> None:
    """Advisory CVE-2024-6300 and its kin: for requests, and for events where the room version says so."""
    hydra = RemoteServer("hydra.test")
    hydra.valid_for_ms = 60 * MINUTE
    world = World(database, hydra)
    event = message(hydra)
    assert await world.keyring.verify_events([event]) == [None]
    hydra.reachable = False
    world.clock.now += 2 * 60 * MINUTE
    assert not await world.keyring.request_keys("hydra.test", ["ed25519:test"])
    new, strict = (message(hydra, version=v, ts=world.clock.now) for v in ("4", "5"))
    outcomes = await world.keyring.verify_events([event, new, strict])
    assert outcomes[:2] == [None, None]
    assert type(outcomes[2]) is KeyExpired
    world.clock.now += LONGEST_PAUSE
    hydra.reachable = True
    hydra.valid_for_ms = DAY
    assert await world.keyring.verify_events([strict]) == [None]


async def test_a_date_beyond_every_validity_asks_nobody(database: Database) -> None:
    """No server can say that its key is valid in a month."""
    hydra = RemoteServer("hydra.test")
    world = World(database, hydra)
    (error,) = await world.keyring.verify_events([message(hydra, ts=now_ms() + 30 * DAY)])
    assert type(error) is KeyExpired
    assert asked_for_keys(hydra) == 0


async def test_a_key_that_was_replaced_is_good_for_the_past_only(database: Database) -> None:
    """`old_verify_keys`: events up to `expired_ts`, later ones not, requests never."""
    hydra = RemoteServer("hydra.test")
    world = World(database, hydra)
    before = [message(hydra, ts=world.clock.now - 2 * DAY), message(hydra, ts=world.clock.now)]
    hydra.old_keys[hydra.key.key_id] = (hydra.key.verify_key, world.clock.now - DAY)
    hydra.key = make_key("second", "ed25519:second")
    outcomes = await world.keyring.verify_events(before)
    assert outcomes[0] is None
    assert type(outcomes[1]) is KeyExpired
    assert not await world.keyring.request_keys("hydra.test", ["ed25519:test"])
    assert list(await world.keyring.request_keys("hydra.test", ["ed25519:second"])) == ["ed25519:second"]


async def test_a_key_that_is_named_no_more_ends(database: Database) -> None:
    """A server that drops a key without a word means that it shall not be used."""
    hydra = RemoteServer("hydra.test")
    world = World(database, hydra)
    first = hydra.key
    past = message(hydra, ts=world.clock.now - MINUTE)
    assert await world.keyring.request_keys("hydra.test", [first.key_id])
    hydra.key = make_key("second", "ed25519:second")
    world.clock.now += 2 * MINUTE
    assert await world.keyring.request_keys("hydra.test", ["ed25519:second"])
    assert not await world.keyring.request_keys("hydra.test", [first.key_id])
    assert await world.keyring.verify_events([past]) == [None]


async def test_another_key_under_the_same_id(database: Database) -> None:
    """A server set up anew may choose the old id: its word counts from now on, and what was signed stays good."""
    hydra = RemoteServer("hydra.test")
    world = World(database, hydra)
    past = message(hydra, ts=world.clock.now - MINUTE)
    assert await world.keyring.verify_events([past]) == [None]
    hydra.key = make_key("set up anew", "ed25519:test")
    world.clock.now += 2 * MINUTE
    keys = await world.keyring.renewed_request_keys("hydra.test", ["ed25519:test"])
    assert keys["ed25519:test"].to_base64() == hydra.key.verify_key.to_base64()
    new = message(hydra, ts=world.clock.now)
    assert await world.keyring.verify_events([past, new]) == [None, None]


async def test_keys_are_taken_from_what_another_process_fetched(database: Database) -> None:
    """Before a server is asked again, the database is."""
    hydra = RemoteServer("hydra.test")
    world = World(database, hydra)
    hydra.reachable = False
    assert not await world.keyring.request_keys("hydra.test", ["ed25519:test"])
    hydra.reachable = True
    assert await world.another().request_keys("hydra.test", ["ed25519:test"])
    hydra.reachable = False
    world.clock.now += MINUTE
    assert await world.keyring.request_keys("hydra.test", ["ed25519:test"])


class LateStore(ServerKeyStore):
    """Reads the first time it is asked, and tells once `go` fires; later reads are told at once."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.go: Deferred[None] = Deferred()
        self.read = False

    async def get(self, server_names: Collection[str]) -> list[ServerKey]:
        keys = await super().get(server_names)
        if not self.read:
            self.read = True
            await self.go
        return keys


async def test_an_answer_that_comes_late_does_not_hide_newer_keys(database: Database) -> None:
    """Who read before the keys were kept is told after those who have fetched them."""
    hydra, other = RemoteServer("hydra.test"), RemoteServer("other.test")
    world = World(database, hydra, other)
    store = world.store = LateStore(database)
    keyring = world.another()
    late = Deferred.fromCoroutine(keyring.verify_events([message(hydra), message(other)]))
    while not store.read:
        await ServerKeyStore(database).get([])
    assert await keyring.verify_events([message(hydra)]) == [None]
    store.go.callback(None)
    assert await late == [None, None]
    assert await keyring.verify_events([message(hydra)]) == [None]
    assert [asked_for_keys(server) for server in (hydra, other)] == [1, 1]


async def test_keys_are_forgotten_but_for_those_that_somebody_is_about_to_use(database: Database) -> None:
    """However little room there is for them, nobody's signature is taken for one by an unknown key."""
    servers = [RemoteServer(f"s{n}.test") for n in range(10)]
    world = World(database, *servers)
    keyring = world.another(most_known=4)
    events = [message(server) for server in servers]
    asked = [
        *(Deferred.fromCoroutine(keyring.verify_events(events[n:] + events[:n])) for n in range(10)),
        *(Deferred.fromCoroutine(keyring.verify_events([event])) for event in events),
    ]
    assert all(outcome is None for outcomes in await gatherResults(asked) for outcome in outcomes)
    assert keyring._known.size == 4  # two servers with a key each
    assert all((await keyring.keys_for(server.name for server in servers)).values())
    assert await keyring.request_keys("s5.test", ["ed25519:test"])
    assert keyring._known.size == 4
    assert [asked_for_keys(server) for server in servers] == [1] * 10


async def test_a_server_cannot_fill_the_table(database: Database) -> None:
    """Sixty-four keys of it are kept, the newest."""
    hydra = RemoteServer("hydra.test")
    world = World(database, hydra)
    for n in range(70):
        hydra.key = make_key(str(n), f"ed25519:k{n}")
        world.clock.now += 2 * MINUTE
        assert await world.keyring.request_keys("hydra.test", [f"ed25519:k{n}"])
    kept = {key.key_id for key in await world.store.get(["hydra.test"])}
    assert kept == {f"ed25519:k{n}" for n in range(6, 70)}


async def test_our_own_events(database: Database) -> None:
    """Checked with our keys, present and old, without asking anybody."""
    old = make_key("old", "ed25519:old")
    world = World(database, old_keys=[OldKey("ed25519:old", old.verify_key, 5_000)])
    ours, before = RemoteServer(US, key=KEY), RemoteServer(US, key=old)
    events = [message(ours), message(before, ts=4_000), message(before, ts=6_000)]
    outcomes = await world.keyring.verify_events(events)
    assert outcomes[:2] == [None, None]
    assert isinstance(outcomes[2], SignatureError)


async def test_objects_signed_by_a_server(database: Database) -> None:
    """Beside events: by a key in use, and by whom they should be."""
    hydra = RemoteServer("hydra.test")
    world = World(database, hydra)
    signed = sign_json({"a": 1}, "hydra.test", hydra.key)
    await world.keyring.verify_json(signed, "hydra.test")
    await world.keyring.verify_json(sign_json({"a": 1}, US, KEY), US)
    for value, server_name in (({**signed, "a": 2}, "hydra.test"), (signed, "other.test"), (signed, US)):
        with pytest.raises(SignatureError):
            await world.keyring.verify_json(value, server_name)


async def test_names_that_are_none_ask_nobody(database: Database) -> None:
    """An event may claim any sender's domain."""
    asked: list[str] = []

    class Recording(Network):
        async def send(self, destination: str, *args: Any, **options: Any) -> Any:
            asked.append(destination)
            return await super().send(destination, *args, **options)

    world = World(database, wire=Recording())
    assert await world.keyring.request_keys("not a name/../x", ["ed25519:a"]) == {}
    found: Mapping[str, Any] = await world.keyring.keys_for(["also bad", US])
    assert found == {"also bad": {}}
    assert asked == []
