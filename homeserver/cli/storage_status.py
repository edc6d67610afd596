# SPDX-License-Identifier: Apache-2.0
"""What `lares storage report` says of the database it finds.

Owns the words. Apart from the command itself because it brings along what other commands do without.
"""

import argparse
import json
from collections.abc import Iterator, Sequence

from msgspec import to_builtins

from homeserver.cli.running_database import running_database
from homeserver.config import Config
from storage.storage_report import EventCost, StorageReport, storage_report


def act(arguments: argparse.Namespace, config: Config) -> int:
    """Carry out the command; its exit code. Raises StartRefused."""
    with running_database(config) as dsn:
        report = storage_report(dsn, exact=arguments.exact)
    if arguments.json:
        print(json.dumps({"total": report.total, **to_builtins(report)}, indent=2))
    else:
        print("\n".join(_lines(report)))
    return 0


def _lines(report: StorageReport) -> Iterator[str]:
    about = "" if report.exact else "about "
    rows = [("", "tables", "indexes", "together", "rows")]
    rows += [
        (
            part.name,
            _size(part.tables),
            _size(part.indexes),
            _size(part.tables + part.indexes),
            f"{part.rows:,}",
        )
        for part in report.parts
    ]
    rows.append(("the database", "", "", _size(report.total), ""))
    yield from _aligned(rows)
    yield ""
    files = (
        "(not counted in time)"
        if report.files is None
        else f"{_size(report.file_bytes or 0)} in {report.files:,}"
    )
    yield f"media files, in data_dir: {files}"
    yield ""
    yield _cost("a message", report.messages, about)
    yield _cost("a change of state", report.state_changes, about)
    yield f"rows of state for each change: {report.state_changes.state_rows:.2f}"
    if report.largest_rooms:
        yield ""
        rooms = [("largest rooms", "events", "members", "name")]
        rooms += [
            (room.room_id, f"{room.events:,}", f"{room.joined_members:,}", room.name or "")
            for room in report.largest_rooms
        ]
        yield from _aligned(rooms)


def _cost(what: str, cost: EventCost, about: str) -> str:
    if not cost.count:
        return f"{what}: there is none yet"
    ratio = cost.bytes / cost.json_bytes
    return (
        f"{what}: {cost.bytes:,.0f} bytes with all indexes, {ratio:.1f} times its JSON of {cost.json_bytes:,.0f}"
        f" ({about}{cost.count:,} of them)"
    )


def _size(count: int) -> str:
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:,.1f} {unit}"
    return f"{value / 1024:,.1f} TiB"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join(cells).rstrip()
