# SPDX-License-Identifier: Apache-2.0
"""Measuring operations on counted servers that are started when first needed: one for clients, one that federates."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from scripts.benchmarks.federation.authority import certify
from tests.costs import between_servers, operations
from tests.costs.bench import Bench, Cost, bench, settled
from tests.costs.between_servers import Between
from tests.costs.operations import REPETITIONS, WARM_UP, Repetition, Stage, stage
from tests.serving import free_port

NAMES: Final = (*operations.OPERATIONS, *between_servers.OPERATIONS)


@dataclass(frozen=True, slots=True)
class Measured:
    """An operation's cost, and how often each function was called in the last repetition."""

    cost: Cost
    functions: Counter[str]


class Measuring:
    """What has been measured, each operation once."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._clients: tuple[Bench, Stage] | None = None
        self._servers: tuple[Bench, Stage, Between] | None = None
        self._done: dict[str, Measured] = {}

    def of(self, name: str) -> Measured:
        """The operation of that name."""
        if name not in self._done:
            self._done[name] = self.again(name)
        return self._done[name]

    def again(self, name: str) -> Measured:
        """The same, measured anew."""
        if name in operations.OPERATIONS:
            server, scene = self._for_clients()
            return _measure(server, operations.OPERATIONS[name](scene))
        server, scene, between = self._for_servers()
        return _measure(server, between_servers.OPERATIONS[name](scene, between))

    def _for_clients(self) -> tuple[Bench, Stage]:
        if self._clients is None:
            server = self._stack.enter_context(bench({}))
            self._clients = server, self._stack.enter_context(stage(server.port))
        return self._clients

    def _for_servers(self) -> tuple[Bench, Stage, Between]:
        if self._servers is None:
            directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="lares-costs-")))
            files = certify(directory / "tls")
            port = free_port()
            name = f"localhost:{port}"
            tls = {"certificate": str(files.certificate), "private_key": str(files.private_key)}
            settings: dict[str, Any] = {
                "server_name": name,
                "listeners": [{"bind": "127.0.0.1", "port": port, "serves": ["federation"], "tls": tls}],
                "federation": {"ca_file": str(files.ca_file), "allow_ip_ranges": ["127.0.0.0/8", "::1/128"]},
            }
            server = self._stack.enter_context(bench(settings))
            scene = self._stack.enter_context(stage(server.port))
            self._servers = server, scene, Between(name, files)
        return self._servers


@contextmanager
def measuring() -> Iterator[Measuring]:
    """Servers end with the block."""
    with ExitStack() as stack:
        yield Measuring(stack)


def _measure(server: Bench, repetition: Repetition) -> Measured:
    counted = [server.measure(repetition()) for _ in range(WARM_UP + REPETITIONS)]
    return Measured(settled([cost for cost, _ in counted[WARM_UP:]]), Counter(counted[-1][1]))
