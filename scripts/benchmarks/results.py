# SPDX-License-Identifier: Apache-2.0
"""The outcome of a run as plain values, and its JSON form (written by a run, read to render it again)."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from scripts.benchmarks.measuring import Figures


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """Bytes on disk (tables and indexes) per event, and the length of such an event as clients get it."""

    message: float
    message_json: int
    state_change: float
    state_change_json: int


@dataclass(frozen=True, slots=True)
class ServerResult:
    """What was found out about one server beside the scenarios."""

    key: str
    label: str
    version: str
    start_seconds: float
    """From an empty database to the first answer."""
    idle_bytes: int
    """Resident memory after the start."""
    peak_bytes: int
    stored: StoredBytes | None


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """One scenario's figures by server."""

    key: str
    title: str
    operation: str
    figures: dict[str, Figures]
    failures: dict[str, str]
    """Why there are none, by server."""
    compared_with: str | None


@dataclass(frozen=True, slots=True)
class Results:
    """One run."""

    date: str
    """UTC, ISO 8601."""
    scale: str
    machine: dict[str, str]
    servers: list[ServerResult]
    scenarios: list[ScenarioResult]

    def server(self, key: str) -> ServerResult | None:
        """The server of that key, if it took part."""
        return next((server for server in self.servers if server.key == key), None)

    def baseline(self, scenario: ScenarioResult, server: str) -> Figures | None:
        """What `server` did in the scenario, or in the one that stands in for it there."""
        if server in scenario.figures or scenario.compared_with is None:
            return scenario.figures.get(server)
        stand_in = next((other for other in self.scenarios if other.key == scenario.compared_with), None)
        return None if stand_in is None else stand_in.figures.get(server)


def write_json(results: Results, path: Path) -> None:
    """Write the results."""
    path.write_bytes(
        orjson.dumps(dataclasses.asdict(results), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    )


def read_json(path: Path) -> Results:
    """Read what `write_json` wrote; raise `KeyError`, `TypeError` or `ValueError` for anything else."""
    data: dict[str, Any] = orjson.loads(path.read_bytes())
    servers = [
        ServerResult(**{**server, "stored": StoredBytes(**server["stored"]) if server["stored"] else None})
        for server in data["servers"]
    ]
    scenarios = [
        ScenarioResult(
            **{**scenario, "figures": {key: Figures(**value) for key, value in scenario["figures"].items()}}
        )
        for scenario in data["scenarios"]
    ]
    return Results(**{**data, "servers": servers, "scenarios": scenarios})
