# SPDX-License-Identifier: Apache-2.0
"""Measuring operations on counted servers that are started when first needed.

One serves clients, one has another process beside it, one federates.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from scripts.benchmarks.federation.authority import certify
from tests.costs import between_processes, between_servers, operations
from tests.costs.bench import Bench, Cost, bench, settled
from tests.costs.between_processes import another_process
from tests.costs.between_servers import Between
from tests.costs.operations import REPETITIONS, WARM_UP, Repetition, Stage, stage
from tests.serving import free_port

NAMES: Final = (*operations.OPERATIONS, *between_processes.OPERATIONS, *between_servers.OPERATIONS)


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
        self._processes: tuple[Bench, Stage, int] | None = None
        self._done: dict[str, Measured] = {}

    def of(self, name: str) -> Measured:
        """The operation of that name, measured in its turn: what was done before it has left rooms and users behind."""
        for each in _group(name):
            if each not in self._done:
                self._done[each] = self.again(each)
            if each == name:
                break
        return self._done[name]

    def again(self, name: str) -> Measured:
        """The same, measured anew and by itself."""
        with ExitStack() as stack:  # nobody who listened for one operation is there for the next
            if name in operations.OPERATIONS:
                server, scene = self._for_clients()
                return _measure(server, operations.OPERATIONS[name](replace(scene, stack=stack)))
            if name in between_processes.OPERATIONS:
                server, scene, port = self._for_processes()
                return _measure(server, between_processes.OPERATIONS[name](replace(scene, stack=stack), port))
            server, scene, between = self._for_servers()
            return _measure(server, between_servers.OPERATIONS[name](replace(scene, stack=stack), between))

    def _for_clients(self) -> tuple[Bench, Stage]:
        if self._clients is None:
            server = self._stack.enter_context(bench({}))
            self._clients = server, self._stack.enter_context(stage(server.port))
        return self._clients

    def _for_processes(self) -> tuple[Bench, Stage, int]:
        if self._processes is None:
            server = self._stack.enter_context(bench({}))
            scene = self._stack.enter_context(stage(server.port))
            self._processes = server, scene, self._stack.enter_context(another_process(server))
        return self._processes

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


def _group(name: str) -> tuple[str, ...]:
    """The operations that are measured on one server, in their order."""
    groups = (operations.OPERATIONS, between_processes.OPERATIONS, between_servers.OPERATIONS)
    return next(tuple(group) for group in groups if name in group)


@contextmanager
def measuring() -> Iterator[Measuring]:
    """Servers end with the block."""
    with ExitStack() as stack:
        yield Measuring(stack)


def _measure(server: Bench, repetition: Repetition) -> Measured:
    counted = [server.measure(repetition()) for _ in range(WARM_UP + REPETITIONS)]
    return Measured(settled([cost for cost, _ in counted[WARM_UP:]]), Counter(counted[-1][1]))
