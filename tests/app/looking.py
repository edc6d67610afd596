# SPDX-License-Identifier: Apache-2.0
"""What can be seen of a server process without being one: its figures, its database's processes, its memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from tests.serving import ServerProcess


def figures(server: ServerProcess) -> dict[str, float]:
    """`/metrics`: each sample, labels included, to its value; of several workers, to the sum of theirs."""
    found: dict[str, float] = {}
    for name, _worker, value in samples(server):
        found[name] = found.get(name, 0.0) + value
    return found


def figures_by_worker(server: ServerProcess, name: str) -> dict[str, float]:
    """One sample of `/metrics`, its other labels included, of each worker."""
    return {worker: value for each, worker, value in samples(server) if each == name and worker is not None}


def samples(server: ServerProcess) -> Iterator[tuple[str, str | None, float]]:
    """All of `/metrics`: the name with its labels except `worker`, that, the value."""
    answer = server.call("GET", "/metrics")
    assert answer.status == 200
    found = re.findall(
        r'^([a-z_]+)(?:\{(?:worker="(\d+)",?)?(.*)\})? (\S+)$', answer.raw.decode(), re.MULTILINE
    )
    for name, worker, labels, value in found:
        yield f"{name}{{{labels}}}" if labels else name, worker or None, float(value)


def database_processes(server: ServerProcess) -> list[int]:
    """The processes that work in the folder of the embedded database."""
    place = os.path.realpath(server.data_dir)
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            folder = os.readlink(process / "cwd")
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:  # it ended meanwhile, or is another user's
            continue
        if folder.startswith(place) and state != "Z":
            found.append(int(process.name))
    return found


def resident_mib(pid: int) -> float:
    """Resident memory of one process."""
    match = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) / 1024
