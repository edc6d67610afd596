# SPDX-License-Identifier: Apache-2.0
"""Two servers, the wire between them, and clients that track lists of devices by what `/sync` tells and nothing else.

Owns what such a client does: it asks for the keys of whoever is `changed`, again if a server was out of reach, and
forgets whoever `left`. Owns, too, what people do to their devices.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tests.devices.devices_fixture import Device, Identity
from tests.federation.certificates import CertificateAuthority
from tests.interop.federation.lares import LaresServer
from tests.interop.federation.network import Network
from tests.interop.federation.people import Json, Person, Refused
from tests.serving import CHECKOUT, free_port

NAMES: Final = ("near", "far")
PATIENCE: Final = 300.0
"""Seconds until what was waited for is taken not to come: some of it only with the next of rounds of a minute each."""

_numbers = count(1)


class Pair:
    """Two servers of ours, each behind a door that can be shut for the other."""

    def __init__(self, directory: Path, network: Network) -> None:
        authority = CertificateAuthority(directory / "authority")
        leaf = authority.issue("localhost")
        self._network = network
        self.servers: list[LaresServer] = []
        for name in NAMES:
            door = free_port()
            server = LaresServer(
                directory / name,
                certificate=leaf.certificate,
                private_key=leaf.private_key,
                ca_file=authority.ca_file,
                door=door,
            )
            network.open_door(name, door, server.federation_port)
            self.servers.append(server)
        for server in self.servers:
            server.process.launch()
        for name, server in zip(NAMES, self.servers, strict=True):
            server.process.wait_ready()
            network.knows(name, server.process.serving_pids())
        self._acquaint()

    def _acquaint(self) -> None:
        """Each learns the other's keys: the first request after a cut might otherwise come too early for that."""
        for here, there in (self.servers, self.servers[::-1]):
            room_id = Owner(here, "first").create_room()
            Owner(there, "guest").join(room_id, here.server_name)

    def cut(self) -> None:
        """Neither reaches the other."""
        self._network.split(*({name} for name in NAMES))

    def heal(self) -> None:
        """They reach each other again, and know it."""
        self._network.heal()
        here, there = self.servers
        command = [sys.executable, "-m", "homeserver.cli", "federation", "retry"]
        told = [
            subprocess.Popen(
                [*command, far.server_name, "--config", str(near.process.config_path)],
                cwd=CHECKOUT,
                stdout=subprocess.DEVNULL,
            )
            for near, far in ((here, there), (there, here))
        ]
        assert [each.wait(PATIENCE) for each in told] == [0, 0]

    def stop(self) -> None:
        for server in self.servers:
            server.stop()


class Owner(Person):
    """Somebody with devices, who changes them."""

    def __init__(self, server: LaresServer, name: str) -> None:
        account = server.process.register(f"{name}{next(_numbers)}{secrets.token_hex(3)}")
        super().__init__(server, account.user_id, account.access_token)
        self._password = account.password
        self._tokens: dict[str, str] = {}
        self._generation = 0

    def gains_device(self) -> Device:
        """Log in on a new device, which has keys."""
        device_id = f"D{next(_numbers)}"
        login = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self.user_id},
            "password": self._password,
            "device_id": device_id,
            "initial_device_display_name": f"Device {device_id}",
        }
        self._tokens[device_id] = self.call("POST", "v3/login", login)["access_token"]
        device = Device(self.user_id, device_id)
        self.on(device_id).call("POST", "v3/keys/upload", {"device_keys": device.keys()})
        return device

    def loses_device(self) -> None:
        """Log out the oldest device."""
        if self._tokens:
            device_id = next(iter(self._tokens))
            self.on(device_id).call("POST", "v3/logout", {})
            del self._tokens[device_id]

    def renames_device(self) -> None:
        if self._tokens:
            body = {"display_name": f"Renamed {next(_numbers)}"}
            self.call("PUT", f"v3/devices/{list(self._tokens)[-1]}", body)

    def resets_identity(self) -> None:
        """New cross-signing keys in place of those there."""
        self._generation += 1
        keys = Identity(self.user_id, str(self._generation)).keys()
        identifier = {"type": "m.id.user", "user": self.user_id}
        auth = {"type": "m.login.password", "identifier": identifier, "password": self._password}
        body: Json = {f"{usage}_key": key for usage, key in keys.items()}
        path = "v3/keys/device_signing/upload"
        try:
            self.call("POST", path, body)
        except Refused:
            self.call("POST", path, {**body, "auth": auth})

    def signs_device(self) -> None:
        """Vouch for the newest device by the self-signing key."""
        if self._tokens and self._generation:
            device = Device(self.user_id, list(self._tokens)[-1])
            signed = Identity(self.user_id, str(self._generation)).signs(device.keys(), "self_signing")
            body = {self.user_id: {device.device_id: signed}}
            assert self.call("POST", "v3/keys/signatures/upload", body) == {"failures": {}}

    def on(self, device_id: str) -> Person:
        """The same person at one of the devices."""
        return Person(self.server, self.user_id, self._tokens[device_id])


class Tracker:
    """The client of somebody who tracks lists of devices."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.held: dict[str, Json] = {}
        """By user, the keys that were told last."""
        self.outdated: set[str] = {owner.user_id}
        """Whose keys are to be asked for."""
        self.told: list[str] = []
        self._since: str = owner.call("GET", "v3/sync")["next_batch"]

    def follow(self, timeout: float = 0.0) -> None:
        """One `/sync`, and a `/keys/query` for those it makes necessary."""
        query = {"since": self._since, "timeout": int(timeout * 1000)}
        answer = self.owner.call("GET", "v3/sync", query=query)
        self._since = answer["next_batch"]
        lists = answer.get("device_lists", {})
        changed, left = set(lists.get("changed", ())), set(lists.get("left", ()))
        if changed or left:
            self.told.append(f"{sorted(changed)} changed, {sorted(left)} left")
        for user_id in left:
            self.held.pop(user_id, None)
        self.outdated = (self.outdated | changed) - left
        if self.outdated:
            answers = keys_of(self.owner, self.outdated)
            self.held.update(answers)
            self.outdated -= set(answers)

    @property
    def tracked(self) -> set[str]:
        return set(self.held) | self.outdated


def keys_of(asking: Person, users: Iterable[str]) -> dict[str, Json]:
    """What a server answers of users' keys, to anybody: signatures that only the asking see are left out."""
    wanted: dict[str, list[str]] = {user_id: [] for user_id in users}
    answer = asking.call("POST", "v3/keys/query", {"device_keys": wanted, "timeout": 10_000})
    return {
        user_id: {
            "devices": devices,
            **{part: answer[part].get(user_id) for part in ("master_keys", "self_signing_keys")},
        }
        for user_id, devices in answer["device_keys"].items()
        if user_id in wanted
    }


class World:
    """Four people with a client each, on two servers, and two rooms that a host on either server keeps open."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.hosts = [Owner(server, "host") for server in pair.servers]
        self.people = [Owner(pair.servers[n % 2], "owner") for n in range(4)]
        self.rooms = [host.create_room() for host in self.hosts]
        self.trackers = [Tracker(owner) for owner in self.people]
        self.is_cut = False
        self.refused: list[str] = []

    def act(self, kind: str, who: int, room: int) -> None:
        """One thing happens; what needs the other server may be refused while it is out of reach."""
        owner, room_id = self.people[who], self.rooms[room]
        try:
            match kind:
                case "join":
                    owner.join(room_id, self.hosts[room].server.server_name)
                case "leave":
                    owner.membership(room_id, "leave")
                case "follow":
                    self.trackers[who].follow()
                case "cut":
                    self.pair.cut()
                    self.is_cut = True
                case "heal":
                    self.heal()
                case _:
                    getattr(owner, kind)()
        except Refused as refusal:
            assert kind in ("join", "leave"), refusal
            self.refused.append(str(refusal))

    def heal(self) -> None:
        if self.is_cut:
            self.pair.heal()
            self.is_cut = False

    def settle(self) -> None:
        """Wait until every client, following what it is told, holds the right keys of those it shares a room with."""
        self.heal()
        deadline = time.monotonic() + PATIENCE
        while wrong := self.differences():
            assert time.monotonic() < deadline, "\n".join(wrong)
            for tracker in self.trackers:
                tracker.follow(timeout=0.5)
        for tracker in self.trackers:
            now = keys_of(tracker.owner, tracker.held)
            assert now == tracker.held, f"{tracker.owner}: told {tracker.told}"

    def differences(self) -> list[str]:
        """What clients hold and should not, or should and do not."""
        for tracker in self.trackers:
            tracker.follow()
        everybody = [*self.hosts, *self.people]
        joined = {
            owner.user_id: set(owner.call("GET", "v3/joined_rooms")["joined_rooms"]) for owner in everybody
        }
        truth: dict[str, Json] = {}
        for host in self.hosts:
            truth |= keys_of(host, [each.user_id for each in everybody if each.server is host.server])
        wrong = [
            f"servers disagree who is in {room_id}: {views}"
            for room_id in self.rooms
            if len(set(map(frozenset, views := self.views(room_id)))) > 1
        ]
        for tracker in self.trackers:
            me = tracker.owner.user_id
            visible = {user_id for user_id, rooms in joined.items() if rooms & joined[me]} | {me}
            if tracker.tracked != visible:
                wrong.append(f"{me} tracks {tracker.tracked}, and shares rooms with {visible}")
            wrong += [
                f"{me} holds {tracker.held.get(user_id)} of {user_id}, who has {truth[user_id]}; told {tracker.told}"
                for user_id in visible
                if tracker.held.get(user_id) != truth[user_id]
            ]
        return wrong

    def views(self, room_id: str) -> list[list[str]]:
        """Who is in a room, as each server with somebody in it says."""
        told: dict[str, list[str]] = {}
        for owner in (*self.hosts, *self.people):
            if owner.server.server_name not in told:
                try:
                    members = owner.call("GET", f"v3/rooms/{quote(room_id)}/joined_members")
                except Refused:
                    continue
                told[owner.server.server_name] = sorted(members["joined"])
        return list(told.values())
