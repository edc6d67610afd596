# SPDX-License-Identifier: Apache-2.0
"""Running a foreign client's scenario and reading its record, one JSON object per line."""

import json
import subprocess
from typing import Any

Record = dict[str, list[dict[str, Any]]]


def record_of(command: list[str], *arguments: str, timeout: float = 600.0) -> Record:
    """Run a client to its end; returns what it saw by step, `step` removed, in the order printed.

    A client that fails or hangs for `timeout` seconds fails the test with all it wrote.
    """
    try:
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, check=False, timeout=timeout
        )
    except subprocess.TimeoutExpired as error:
        log = (error.stderr or b"")[-12_000:]
        raise AssertionError(f"{command[-1]} hung after printing {error.stdout!r}\n{log!r}") from None
    assert done.returncode == 0, f"{command[-1]} failed\n{done.stdout}\n{done.stderr[-12_000:]}"
    record: Record = {}
    for line in done.stdout.splitlines():
        seen = json.loads(line)
        record.setdefault(seen.pop("step"), []).append(seen)
    return record
