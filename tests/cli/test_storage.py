# SPDX-License-Identifier: Apache-2.0
"""`lares storage report` says what takes how much, in words and in JSON, by estimates and by counting."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlencode

import psycopg2
import pytest
from psycopg2.extensions import parse_dsn

from homeserver.cli import main
from homeserver.rooms.engine import Draft
from storage.database import Database
from storage.storage_report import StorageStore, storage_report
from tests.rooms.engine_fixture import ALICE, Engine, message

MESSAGES, CHANGES = 3000, 600
CREATION = 5
"""Events of state that make a room."""


def topic(text: str) -> Draft:
    return Draft("m.room.topic", ALICE, {"topic": text}, "")


async def test_report_counts_and_estimates(
    database: Database, database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = await Engine.open(database)
    room = await engine.new_room()
    other = await engine.new_room()
    for start in range(0, MESSAGES, 500):
        texts = [message(ALICE, f"The quick brown fox jumps over dog number {start + n}") for n in range(500)]
        await engine.engine.write(room.room_id, lambda _head, texts=texts: texts, users=(ALICE,))  # type: ignore[misc]
    changes = [topic(f"The quick brown fox jumps over dog number {n}") for n in range(CHANGES)]
    await engine.engine.write(room.room_id, lambda _head: changes, users=(ALICE,))

    exact = storage_report(database_url, exact=True)
    assert exact.messages.count == MESSAGES
    assert exact.state_changes.count == CHANGES + 2 * CREATION
    assert exact.state_changes.state_rows == 1.0
    assert [(each.room_id, each.events) for each in exact.largest_rooms or ()] == [
        (room.room_id, MESSAGES + CHANGES + CREATION),
        (other.room_id, CREATION),
    ]
    # The budgets of the disk. Indexes are filled by one room in one go, so the measure of the benchmark is stricter.
    for cost in (exact.messages, exact.state_changes):
        assert cost.bytes < 2.5 * cost.json_bytes

    with psycopg2.connect(database_url) as connection, connection.cursor() as asked:
        asked.execute("ANALYZE events, state_snapshots")
    estimated = storage_report(database_url)
    for one, two in ((exact.messages, estimated.messages), (exact.state_changes, estimated.state_changes)):
        assert two.count == pytest.approx(one.count, rel=0.1)
        assert two.bytes == pytest.approx(one.bytes, rel=0.1)
        assert two.json_bytes == pytest.approx(one.json_bytes, rel=0.1)
    assert next(part.name for part in await StorageStore(database).parts()) == "events"

    file = tmp_path / "lares.yaml"
    parts = parse_dsn(database_url)
    query = urlencode([(name, parts[name]) for name in ("host", "port")])
    file.write_text(f'database: {{url: "postgresql://{parts["user"]}@/{parts["dbname"]}?{query}"}}')
    assert main(["storage", "report", "--config", str(file)]) == 0
    said = capsys.readouterr().out
    assert "a message: " in said and room.room_id in said and "rows of state for each change: 1.00" in said
    assert main(["storage", "report", "--exact", "--json", "--config", str(file)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["messages"]["count"] == MESSAGES
    assert told["total"] == sum(part["tables"] + part["indexes"] for part in told["parts"])


def test_a_new_database_has_a_report(database_url: str) -> None:
    report = storage_report(database_url)
    assert (report.messages.count, report.state_changes.count, report.files) == (0, 0, 0)
    assert report.total > 0


def test_every_table_is_for_something(database_url: str) -> None:
    """What is in no part is of use for a moment, or is the schema's own."""
    with psycopg2.connect(database_url) as connection, connection.cursor() as asked:
        asked.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        tables = {row[0] for row in asked.fetchall()}
    from storage.storage_report import PART_OF

    assert set(PART_OF) <= tables
    assert tables - set(PART_OF) == {
        *(
            "stream",
            "schema_version",
            "reports",
            "uia_sessions",
            "registration_tokens",
            "registration_nonces",
            "server_processes",
            "work_turns",
        ),
        *(
            "login_tokens",
            "openid_tokens",
            "delegated_leaves",
            "livekit_tickets",
            "echo_account",
            "echo_calls",
        ),
    }
