# SPDX-License-Identifier: Apache-2.0
"""What each operation cost when it was last recorded, and the judgement of what it costs now.

Statements, round trips and commits are the same everywhere, and so are bytes to a hair: they are kept once. Calls
differ between versions of Python and are kept for each; where one has none, those of the nearest are held to a wider
factor. Turns of the reactor and notifications are kept to be read and not judged, since they depend on what arrives
together.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tests.costs.bench import Cost

FILE: Final = Path(__file__).with_name("baselines.json")
VERSION: Final = f"{sys.version_info[0]}.{sys.version_info[1]}"

FACTOR: Final = 1.10
"""What an operation may cost of what was recorded."""
OTHER_VERSION_FACTOR: Final = 1.25
EXACT: Final = ("round_trips", "statements", "commits")
SLACK: Final = {"calls": 20, "database_sent": 64, "database_received": 64, "client_bytes": 64, "wal": 1024}
"""What is judged by the factor, and how much more it may be anyway: an empty thing has no tenth."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One count that moved by more than it may."""

    count: str
    recorded: int
    now: int

    def __str__(self) -> str:
        share = f" ({100 * (self.now / self.recorded - 1):+.0f} %)" if self.recorded else ""
        return f"{self.count}: {self.recorded} → {self.now}{share}"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became dearer, which must not be, and what became cheaper, which is to be recorded."""

    dearer: list[Difference]
    cheaper: list[Difference]


@dataclass(slots=True)
class Baselines:
    """The recorded costs: `calls` by version of Python and operation, everything else by operation."""

    calls: dict[str, dict[str, int]]
    others: dict[str, dict[str, int]]

    @classmethod
    def read(cls, path: Path = FILE) -> Baselines:
        """From the file; empty if there is none."""
        if not path.exists():
            return cls({}, {})
        data: dict[str, Any] = json.loads(path.read_text())
        return cls(data["calls"], data["others"])

    def write(self, path: Path = FILE) -> None:
        """To the file, a line per operation."""
        path.write_text(json.dumps({"calls": self.calls, "others": self.others}, indent=1) + "\n")

    def record(self, name: str, cost: Cost, version: str = VERSION) -> None:
        """Replace what was recorded of an operation."""
        counts = asdict(cost)
        self.calls.setdefault(version, {})[name] = counts.pop("calls")
        self.others[name] = counts

    def keep_only(self, names: tuple[str, ...]) -> None:
        """Forget operations that are no more."""
        self.others = {name: counts for name, counts in self.others.items() if name in names}
        for version, calls in self.calls.items():
            self.calls[version] = {name: count for name, count in calls.items() if name in names}

    def judge(self, name: str, cost: Cost, version: str = VERSION) -> Judgement:
        """Compare. Raises KeyError for what was never recorded."""
        recorded = dict(self.others[name])
        nearest = self._nearest(name, version)
        recorded["calls"] = self.calls[nearest][name]
        now = asdict(cost)
        dearer, cheaper = [], []
        for count in (*EXACT, *SLACK):
            factor = OTHER_VERSION_FACTOR if count == "calls" and nearest != version else FACTOR
            difference = Difference(count, recorded[count], now[count])
            if _exceeds(count, now[count], recorded[count], factor):
                dearer.append(difference)
            elif _exceeds(count, recorded[count], now[count], factor):
                cheaper.append(difference)
        return Judgement(dearer, cheaper)

    def _nearest(self, name: str, version: str) -> str:
        """The version itself or the one next to it, the older of two."""
        minor = int(version.partition(".")[2])
        having = [each for each in self.calls if name in self.calls[each]]
        if not having:
            raise KeyError(name)
        return min(having, key=lambda each: (abs(int(each.partition(".")[2]) - minor), each))


def _exceeds(count: str, larger: int, smaller: int, factor: float) -> bool:
    if count in EXACT:
        return larger > smaller
    return larger > smaller * factor + SLACK[count]
