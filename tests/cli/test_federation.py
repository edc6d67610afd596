# SPDX-License-Identifier: Apache-2.0
"""`lares federation` says how other servers stand in words and in JSON, and has one tried again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest
from psycopg2.extensions import parse_dsn

from homeserver.cli import main
from storage.database import Database
from storage.destinations import DestinationStore, Standing
from storage.embedded import EmbeddedPostgres
from storage.migrate import migrate
from storage.outbound_shards import ShardStore
from storage.outgoing_edus import NewEdu, OutgoingEduStore
from tests.federation.outbound.outbound_fixture import Process
from tests.reactor import run

START = 1_700_000_000_000


@pytest.fixture
def config(database_url: str, tmp_path: Path) -> list[str]:
    """The option that names a configuration with the test's database."""
    file = tmp_path / "lares.yaml"
    parts = parse_dsn(database_url)
    query = urlencode([(name, parts[name]) for name in ("host", "port")])
    file.write_text(f'database: {{url: "postgresql://{parts["user"]}@/{parts["dbname"]}?{query}"}}')
    return ["--config", str(file)]


@pytest.fixture
def federation(config: list[str]) -> Callable[..., int]:
    """Run `lares federation` against the test's database."""
    return lambda *arguments: main(["federation", *arguments, *config])


def test_nothing_is_wrong(federation: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody sends, nobody is in trouble."""
    assert federation("status") == 0
    assert capsys.readouterr().out == (
        "Nothing is being sent: no server process runs, or federation is off.\n"
        "0 servers are not reached, 0 refuse what is sent, 0 are behind.\n"
    )
    assert federation("status", "a.test") == 0
    assert "nothing is known of it" in capsys.readouterr().out
    assert federation("retry", "a.test") == 0
    assert "no trouble" in capsys.readouterr().out


async def _make_trouble(database: Database) -> None:
    await DestinationStore(database, "test").put_standings(
        [
            Standing("a.test", 3, START, START + 10**12, 0, 0, "no route\x1b[31m"),
            Standing("b.test", 0, START + 1, 0, 1, 5, "403 M_FORBIDDEN: go away", START),
            Standing("c.test", last_success=START),
        ]
    )
    await ShardStore(database, "test").hold(60, {}, [("a.test", 7)])
    await OutgoingEduStore(database).add([NewEdu("a.test", "m.test", None, "{}")])


def test_trouble_is_told(
    federation: Callable[..., int], database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Since when, why, when again, and what waits; nothing in it writes to the terminal but words."""
    run(_make_trouble(database))
    assert federation("status") == 0
    a = (
        "a.test: not reached since 2023-11-14 22:13 UTC (3 attempts); last: no route?[31m; "
        "next attempt at 2055-07-24 00:00 UTC; behind since position 7; 1 unit waits"
    )
    b = (
        "b.test: answers transactions with an error (1 in a row); last: 403 M_FORBIDDEN: go away; "
        "next attempt is due; last delivered to about 2023-11-14 22:13 UTC"
    )
    assert capsys.readouterr().out.splitlines() == [
        "1 process sends.",
        "1 server is not reached, 1 refuses what is sent, 1 is behind.",
        "1 unit (keys, device lists) waits to be delivered.",
        a,
        b,
    ]
    assert federation("status", "a.test") == 0
    assert capsys.readouterr().out == a.replace("behind since position 7; ", "") + "\n"
    assert federation("status", "c.test") == 0
    assert capsys.readouterr().out.startswith("c.test: no trouble; last delivered to about 2023")
    assert federation("status", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["failing"], told["refusing"], told["behind"], told["processes"]) == (1, 1, 1, 1)
    assert [each["server_name"] for each in told["destinations"]] == ["a.test", "b.test"]
    assert federation("status", "a.test", "--json") == 0
    assert json.loads(capsys.readouterr().out)["waiting_edus"] == 1


def test_a_server_is_tried_again_at_once(
    federation: Callable[..., int], database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """The running process hears of it."""
    process = run(Process.open(database))

    async def fail() -> None:
        room = await process.room_with("a.test")
        process.others.away.add("a.test")
        await process.say(room, "one", "two")
        await process.settle()
        await process.pass_time(2)
        await process.settle()
        await process.outbound.availability._write()
        await process.renew()

    run(fail())
    assert federation("status", "a.test") == 0
    assert "2 events wait" in capsys.readouterr().out
    process.others.away.clear()
    assert federation("retry", "a.test") == 0
    assert capsys.readouterr().out == "a.test is tried now\n"
    run(process.until(lambda: process.others.bodies("a.test") == ["one", "two"]))
    run(process.stop())


def test_options_may_stand_anywhere(config: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Before, between and after what is to be done and to whom."""
    for arguments in (
        [*config, "retry", "a.test"],
        ["retry", *config, "a.test"],
        ["retry", "a.test", *config],
        [*config, "status", "--json", "a.test"],
        ["status", "--json", *config, "a.test"],
    ):
        assert main(["federation", *arguments]) == 0
        assert capsys.readouterr().out in ("a.test is in no trouble that is known of\n", "null\n")
    with pytest.raises(SystemExit, match="2"):
        main(["federation", "status", *config, "a.test", "b.test"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["retry"], "say which server"), (["status", "a test"], "not a server name")],
)
def test_a_wrong_call_is_refused_in_words(
    federation: Callable[..., int], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """Exit code 1."""
    assert federation(*arguments) == 1
    assert message in capsys.readouterr().err


def test_the_embedded_database_of_a_running_server_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And that none runs is said in words."""
    file = tmp_path / "lares.yaml"
    file.write_text(f"data_dir: {tmp_path}/data")
    assert main(["federation", "status", "--config", str(file)]) == 1
    assert "start it first" in capsys.readouterr().err
    server = EmbeddedPostgres(tmp_path / "data", settings={"fsync": "off"})
    try:
        migrate(server.start())
        assert main(["federation", "status", "--config", str(file)]) == 0
        assert "Nothing is being sent" in capsys.readouterr().out
    finally:
        server.stop()
    assert main(["federation", "status", "--config", str(file)]) == 1
    assert "start it first" in capsys.readouterr().err
