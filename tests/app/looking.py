# SPDX-License-Identifier: Apache-2.0
"""What can be seen of a server process without being one: its figures, its database's processes, its memory."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.serving import ServerProcess


def figures(server: ServerProcess) -> dict[str, float]:
    """`/metrics`: each sample, labels included, to its value."""
    answer = server.call("GET", "/metrics")
    assert answer.status == 200
    samples = re.findall(r"^([a-z_]+(?:\{.*\})?) (\S+)$", answer.raw.decode(), re.MULTILINE)
    return {name: float(value) for name, value in samples}


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
