# SPDX-License-Identifier: Apache-2.0
"""Three servers, a network that falls apart again and again, and people who go on all the while.

Whatever was acknowledged is everywhere in the end, and all servers hold the same state: members who were kicked on
one side while they spoke on the other aside, whose words the others rightly hide.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.federation.certificates import CertificateAuthority
from tests.interop.federation.lares import LaresServer
from tests.interop.federation.network import Network, network
from tests.interop.federation.people import Person, Refused
from tests.serving import free_port

NAMES = ("a", "b", "c")
ROUNDS = 3
ACTIONS = 7
"""Per server and round."""


class World:
    """The servers and the network between them."""

    def __init__(self, directory: Path, net: Network) -> None:
        authority = CertificateAuthority(directory / "authority")
        leaf = authority.issue("localhost")
        self.net = net
        self.servers: dict[str, LaresServer] = {}
        for name in NAMES:
            door = free_port()
            server = LaresServer(
                directory / name,
                certificate=leaf.certificate,
                private_key=leaf.private_key,
                ca_file=authority.ca_file,
                door=door,
            )
            net.open_door(name, door, server.federation_port)
            self.servers[name] = server
            server.process.launch()
        for name, server in self.servers.items():
            server.process.wait_ready()
            net.knows(name, server.process.serving_pids())

    def heal(self) -> None:
        self.net.heal()
        for near in self.servers.values():
            for far in self.servers.values():
                if near is not far:
                    near.retry(far.server_name)

    def stop(self) -> None:
        for server in self.servers.values():
            server.stop()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Kept for all seeds; each has a room of its own."""
    with network() as net:
        made = World(tmp_path_factory.mktemp("netsplit"), net)
        yield made
        made.stop()


class Crowd:
    """On each server one who may do everything, and one who may be thrown out; all in one room."""

    def __init__(self, world: World, version: str, chance: random.Random) -> None:
        self.chance = chance
        number = chance.randrange(10**9)
        servers = world.servers
        self.leaders = {name: servers[name].register(f"leader{number}") for name in NAMES}
        self.guests = {name: servers[name].register(f"guest{number}") for name in NAMES}
        first = self.leaders["a"]
        invited = [leader.user_id for leader in self.leaders.values() if leader is not first]
        users = dict.fromkeys(invited, 100)
        if version != "12":
            users[first.user_id] = 100
        levels = {"users": users, "state_default": 50}
        self.room_id = first.create_room(room_version=version, power_level_content_override=levels)
        for person in (*self.leaders.values(), *self.guests.values()):
            if person is not first:
                person.join(self.room_id, first.server.server_name)
        self.said: list[str] = []
        self._known: dict[Person, set[str]] = {}
        # Who came in last may know some members a moment later than the room, and cannot throw them out before.
        self.agree()

    def act(self, name: str) -> None:
        """One of the things that a leader or a guest of that server may do; acknowledged or refused."""
        leader = self.leaders[name]
        guest = self.chance.choice(list(self.guests.values()))
        own_guest = self.guests[name]
        kind = self.chance.choice(
            ("say", "say", "say", "topic", "name", "kick", "ban", "unban", "rules", "join", "chat")
        )
        try:
            match kind:
                case "say":
                    self.said.append(leader.say(self.room_id, f"{name} {len(self.said)}"))
                case "topic" | "name":
                    leader.set_state(self.room_id, f"m.room.{kind}", {kind: f"{name} {self.chance.random()}"})
                case "rules":
                    rule = self.chance.choice(("public", "invite"))
                    leader.set_state(self.room_id, "m.room.join_rules", {"join_rule": rule})
                case "kick" | "ban" | "unban":
                    leader.membership(self.room_id, kind, guest)
                case "join":
                    own_guest.join(self.room_id, leader.server.server_name)
                case _:
                    own_guest.say(self.room_id, "guests speak, too")
        except Refused as refusal:
            assert refusal.status in (403, 404), refusal

    def agree(self) -> None:
        """Wait until all servers have all that was said and the same state.

        The leaders speak in turn, each when all have what the one before said, so that whatever only one server
        accepted is built upon by all: after the last, every server's room ends in that one event.
        """
        for leader in self.leaders.values():
            self.said.append(leader.say(self.room_id, "is everybody there?"))
            for other in self.leaders.values():
                other.until(lambda me: not self._lacking(me), "what was said")
        first, *others = self.leaders.values()
        for other in others:
            other.until(lambda me: me.state(self.room_id) == first.state(self.room_id), "agreement")

    def _lacking(self, person: Person) -> list[str]:
        """What was said and that person's server has not."""
        return [event_id for event_id in self.said if not self._has(person, event_id)]

    def _has(self, person: Person, event_id: str) -> bool:
        known = self._known.setdefault(person, set())
        if event_id not in known:
            try:
                person.call("GET", f"v3/rooms/{self.room_id}/event/{event_id}")
            except Refused:
                return False
            known.add(event_id)
        return True


@pytest.mark.parametrize(("version", "seed"), [("1", 11), ("10", 5), ("12", 3)])
def test_netsplit(world: World, version: str, seed: int) -> None:
    """Split at random, act on every side, heal; and in the end everybody agrees."""
    chance = random.Random(seed)
    crowd = Crowd(world, version, chance)
    for _ in range(ROUNDS):
        alone = chance.choice(NAMES)
        world.net.split({alone}, set(NAMES) - {alone})
        if chance.random() < 0.3:
            world.net.split(*({name} for name in NAMES))
        order = [name for name in NAMES for _ in range(ACTIONS)]
        chance.shuffle(order)
        for name in order:
            crowd.act(name)
        world.heal()
        if chance.random() < 0.5:
            crowd.agree()
    crowd.agree()
