# SPDX-License-Identifier: Apache-2.0
"""From people to machines: what load so many users make, how many processes and cores that takes, and what binds.

Pure: measurements, assumptions and a number of users give a plan. Costs per operation are measured ones; how commits
gather and wait is simulated (`commit_queue`); how long a worker lets wait what it is to deliver follows from how busy
it is (M/G/1, by Pollaczek and Khinchine). The busiest hour is what is planned for.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Final

from scripts.benchmarks.measuring import percentile
from scripts.benchmarks.scaling.behaviour import Behaviour, Ground
from scripts.benchmarks.scaling.commit_queue import ARRIVALS, Commits, CommitTime, simulate
from scripts.benchmarks.scaling.measurements import Measurements, Operation, Parked

DAY: Final = 86_400.0
GATHERED: Final = 10
"""Messages of a commit in the scenario of ten senders."""
CONNECTIONS_OF_A_WORKER: Final = 10_000
"""Clients' that a process takes: `homeserver.web.listeners`."""
TO_DEVICE_SHARE: Final = 0.1
"""Twenty devices of the two hundred in that scenario; of the hundred in the one of claims, twice as much."""
RECEIPT_SHARE: Final = 0.5
"""Of a message's CPU and log that a receipt takes: it is written to the stream and delivered, yet no event."""
MOST_PARTS: Final = 4096
MOST_WORKERS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second, in the busiest hour."""

    messages: float
    incoming: float
    """Events from other servers."""
    positions: float
    """Of the stream: messages, receipts, events from others."""
    deliveries: float
    listeners: float
    """Clients that wait, of which `sockets` by WebSocket; a number, not a rate."""
    sockets: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What one installation needs."""

    users: int
    parts: int
    """Databases of its own that each take a share of the users; 1 is what the code can do."""
    rates: Rates
    """Of each part."""
    workers: int
    """Of each part, as is what follows."""
    commits: Commits
    worker_use: float
    """Share of a core that each worker uses."""
    database_cores: float
    memory: float
    """Bytes of all workers."""
    connections: int
    """To the database."""
    log_rate: float
    """Bytes of write-ahead log per second."""
    disk: float
    """Bytes of tables and indexes per year."""
    media: float
    """Bytes of media per year."""
    delivery_p50: float
    """Seconds from a message's arrival at the server until a listener's answer is written, as is delivery_p99."""
    delivery_p99: float
    uses: dict[str, float]
    """What may bind → how much of what may be used of it is used."""

    @property
    def binds(self) -> str:
        """What is used most."""
        return max(self.uses, key=lambda name: self.uses[name])

    @property
    def fits(self) -> bool:
        """Whether everything stays within what may be used."""
        return all(use <= 1 for use in self.uses.values())


def rates_of(users: float, behaviour: Behaviour) -> Rates:
    """What so many users do in the busiest hour."""
    b = behaviour
    messages = users * b.daily_active * b.messages / DAY * b.peak
    incoming = messages * b.federated * b.incoming
    audience = b.room_members * b.members_online * b.devices
    listeners = users * b.online * b.devices
    return Rates(
        messages,
        incoming,
        positions=messages * (1 + b.receipts) + incoming,
        deliveries=(messages + incoming) * audience * (1 + b.ephemeral),
        listeners=listeners,
        sockets=listeners * b.web_sockets,
    )


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of CPU, on the cores planned for."""

    position: float
    """Of a worker per message, beside `commit` per commit; of the database likewise."""
    commit: float
    database_position: float
    database_commit: float
    notify: float
    """Of the database per commit and process that listens."""

    @classmethod
    def of(cls, measured: Measurements, ground: Ground) -> Costs:
        """Split sending into what a commit costs and what each message of it: from one and from ten senders."""
        alone, many = measured.operations["send-one-room"], measured.operations["send-one-room-10"]
        scale = 1000 * ground.speed
        server = _split(alone.server, many.server)
        database = _split(alone.database, many.database)
        points = [(each.listeners, each.cpu) for each in measured.notifications]
        return cls(
            server[1] / scale,
            server[0] / scale,
            database[1] / scale,
            database[0] / scale,
            _slope(points) / scale,
        )


def plan(
    users: int, behaviour: Behaviour, ground: Ground, measured: Measurements, *, arrivals: int = ARRIVALS
) -> Plan:
    """The plan with the fewest parts that fits; the last that was tried if none does.

    `arrivals` are those of the simulation: more of them make smoother percentiles.
    """
    parts = 1
    while True:
        share = users / parts
        rates, costs = rates_of(share, behaviour), Costs.of(measured, ground)
        found = _plan_part(users, parts, _Part(share, rates, costs, behaviour, ground, measured, arrivals))
        if found.fits or parts >= MOST_PARTS:
            return found
        parts = parts * 2


def _plan_part(users: int, parts: int, part: _Part) -> Plan:
    behaviour, measured = part.behaviour, part.measured
    workers, commits = part.arrange()
    use = part.worker_load(workers, commits) / workers
    delivery = part.delivery(workers, commits, use)
    active_days = 365 * part.users * behaviour.daily_active
    stored = behaviour.messages * (1 + behaviour.federated * behaviour.incoming) * measured.stored_per_message
    return Plan(
        users,
        parts,
        part.rates,
        workers,
        commits,
        use,
        database_cores=part.database_load(workers, commits) / part.ground.database_use,
        memory=part.memory(workers),
        connections=workers * measured.worker.connections,
        log_rate=measured.wal_per_message * part.events_and_receipts,
        disk=active_days * stored,
        media=active_days * behaviour.media * 2**20,
        delivery_p50=delivery[0],
        delivery_p99=delivery[1],
        uses=part.uses(workers, commits, use),
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """One database with its workers, and what is wanted of them. CPU in seconds per second, that is, in cores."""

    users: float
    rates: Rates
    costs: Costs
    behaviour: Behaviour
    ground: Ground
    measured: Measurements
    arrivals: int

    @property
    def commit_time(self) -> CommitTime:
        """How long the row is locked."""
        durable = (self.ground.flush + self.ground.standby) / 1000
        return CommitTime(durable + self.costs.database_commit, self.costs.database_position)

    @property
    def events_and_receipts(self) -> float:
        """Per second, a receipt counting as the part of a message that it costs."""
        receipts = RECEIPT_SHARE * self.behaviour.receipts * self.rates.messages
        return self.rates.messages + self.rates.incoming + receipts

    def arrange(self) -> tuple[int, Commits]:
        """The fewest workers that stay as idle as they may; more workers make more commits, which all hear of."""
        workers = max(1, math.ceil(self.rates.listeners / (0.8 * CONNECTIONS_OF_A_WORKER)))
        for _ in range(40):
            commits = simulate(self.rates.positions, workers, self.commit_time, arrivals=self.arrivals)
            wanted = math.ceil(self.worker_load(workers, commits) / self.ground.worker_use)
            if wanted <= workers or wanted > MOST_WORKERS:
                break
            workers = wanted
        return workers, commits

    def uses(self, workers: int, commits: Commits, use: float) -> dict[str, float]:
        """What may bind → how much of what may be used of it is used."""
        ground = self.ground
        foreign = (workers - 1) / workers * commits.commits * ground.foreign / self._scale
        return {
            "the stream's row": max(
                self.rates.positions / self.commit_time.most / ground.stream_use,
                1000 * commits.latency(99) / ground.commit_p99,
            ),
            "the database's cores": self.database_load(workers, commits)
            / ground.database_use
            / ground.database_cores,
            "connections to the database": workers
            * self.measured.worker.connections
            / ground.database_connections,
            "commits of other workers": foreign / ground.worker_use,
            "a worker's core": use / ground.worker_use if use > ground.worker_use else 0.0,
        }

    def worker_load(self, workers: int, commits: Commits) -> float:
        """Cores of all workers together."""
        rates, behaviour, ground, scale = self.rates, self.behaviour, self.ground, self._scale
        own = rates.messages + RECEIPT_SHARE * behaviour.receipts * rates.messages
        visits = sum(rate * self._operation(name).server for name, rate in self._visits().items())
        return (
            own * self.costs.position
            + commits.commits * (self.costs.commit + (workers - 1) * ground.foreign / scale)
            + rates.deliveries * self._delivery_cost
            + sum(count * each.cpu_each for count, each in self._waiting()) / scale
            + rates.incoming * ground.intake / scale
            + rates.messages * behaviour.federated * behaviour.servers * ground.outbound / scale
            + visits / scale
        )

    def database_load(self, workers: int, commits: Commits) -> float:
        """Cores of the database."""
        visits = sum(rate * self._operation(name).database for name, rate in self._visits().items())
        return (
            self.events_and_receipts * self.costs.database_position
            + commits.commits * (self.costs.database_commit + workers * self.costs.notify)
            + visits / self._scale
        )

    def memory(self, workers: int) -> float:
        """Bytes of all workers: a room is in the memory of each that has somebody of it."""
        behaviour, worker = self.behaviour, self.measured.worker
        waiting = sum(count * each.bytes_each for count, each in self._waiting())
        rooms = self.users * behaviour.daily_active * behaviour.rooms / behaviour.room_members
        copies = max(1.0, min(workers, behaviour.room_members * behaviour.members_online))
        caches = min(rooms * copies * worker.room_bytes, workers * self.ground.budget * 2**20)
        about = self.users * behaviour.online * worker.user_bytes
        return workers * worker.idle_bytes + waiting + about + caches

    def delivery(self, workers: int, commits: Commits, use: float) -> tuple[float, float]:
        """Percentiles 50 and 99: a commit, its notification, and two queues, the sender's worker and the listener's."""
        if use >= 1:
            return math.inf, math.inf
        behaviour = self.behaviour
        audience = behaviour.room_members * behaviour.members_online * behaviour.devices
        burst = max(1.0, audience / workers) * self._delivery_cost
        # A worker's jobs are bursts of deliveries, as long as exponential times are; whoever comes must wait with the
        # probability that it is busy, and then for burst / (1 - use) on average.
        wait = burst / (1 - use)
        heard = [each.p50 for each in self.measured.notifications if each.listeners == 1]
        told = sum(heard) / 1000 if workers > 1 else 0.0
        draw = random.Random(2)
        sampled = sorted(
            latency
            + told
            + sum(draw.expovariate(1 / wait) if draw.random() < use else 0.0 for _ in range(2))
            + draw.random() * burst
            for latency in commits.latencies
        )
        return percentile(sampled, 50), percentile(sampled, 99)

    @property
    def _scale(self) -> float:
        """Measured milliseconds in a second of the cores planned for."""
        return 1000 * self.ground.speed

    @property
    def _delivery_cost(self) -> float:
        sockets = self.rates.sockets / self.rates.listeners if self.rates.listeners else 0.0
        poll, socket = self._operation("fan-out-poll"), self._operation("fan-out-websocket")
        return ((1 - sockets) * poll.server + sockets * socket.server) / self._scale

    def _waiting(self) -> list[tuple[float, Parked]]:
        """How many wait in which way."""
        rates = self.rates
        counts = {"long-poll": rates.listeners - rates.sockets, "websocket": rates.sockets}
        return [(counts[each.kind], each) for each in self.measured.parked]

    def _visits(self) -> dict[str, float]:
        """Requests per second beside sending and waiting, by the scenario whose cost they have."""
        behaviour = self.behaviour
        active = self.users * behaviour.daily_active / DAY * behaviour.peak
        keys = behaviour.key_messages * self.rates.messages * TO_DEVICE_SHARE
        return {
            "send-and-sync": active * behaviour.opens,
            "messages": active * behaviour.pages,
            "initial-sync-lazy": active * behaviour.first_syncs,
            "to-device": keys,
            "keys-claim": 2 * keys,
        }

    def _operation(self, name: str) -> Operation:
        return self.measured.operations[name]


def _split(alone: float, many: float) -> tuple[float, float]:
    """What a commit costs and what each of its messages does, from one message per commit and from several."""
    commit = max(alone - many, 0.0) / (1 - 1 / GATHERED)
    return commit, max(alone - commit, 0.0)


def _slope(points: list[tuple[int, float]]) -> float:
    """Of the line through the points, by least squares; not below zero."""
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    return max(sum((x - middle_x) * (y - middle_y) for x, y in points) / spread, 0.0) if spread else 0.0
