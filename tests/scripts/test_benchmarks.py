# SPDX-License-Identifier: Apache-2.0
"""The benchmark's own promises: its statistics, verdicts, parsing and reports. No server runs here."""

import asyncio
import dataclasses
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scripts.benchmarks import chart, report
from scripts.benchmarks.__main__ import main
from scripts.benchmarks.budgets import CPU_DIVISORS, P99_DIVISORS, fraction, judge
from scripts.benchmarks.client import RequestFailed, WebSocket, next_batch, parse_response
from scripts.benchmarks.marks import replaced
from scripts.benchmarks.measuring import Figures, Load, Trial, drive, percentile, summarize
from scripts.benchmarks.processes import Child, ProcessFailed
from scripts.benchmarks.results import (
    Results,
    ScenarioResult,
    ServerResult,
    StoredBytes,
    read_json,
    write_json,
)
from scripts.benchmarks.scenarios import BY_KEY, SCENARIOS

MIB = 1024 * 1024


def figures(server_cpu: float) -> Figures:
    return Figures(operations=10, rate=1234.5, p50=1.0, p99=20.0, server_cpu=server_cpu, database_cpu=0.5)


def server(key: str, idle: int) -> ServerResult:
    return ServerResult(key, key.title(), "1.0", 1.5, idle, 2 * idle, StoredBytes(1000.0, 400, 2000.0, 500))


def results() -> Results:
    """Whoami keeps its budget of a quarter, sending misses a thirtieth; WebSockets have polls to beat."""
    return Results(
        date="2026-01-01T00:00:00+00:00",
        scale="quick",
        machine={"processor": "one", "cores": "2"},
        servers=[server("lares", 60 * MIB), server("synapse", 130 * MIB)],
        scenarios=[
            ScenarioResult(
                "whoami", "whoami", "request", {"lares": figures(0.1), "synapse": figures(0.4)}, {}, None
            ),
            ScenarioResult(
                "send-8-rooms",
                "send | 8",
                "event",
                {"lares": figures(2.0), "synapse": figures(14.0)},
                {},
                None,
            ),
            ScenarioResult(
                "fan-out-poll", "polls", "delivery", {"synapse": figures(4.0)}, {"lares": "Oops: no"}, None
            ),
            ScenarioResult(
                "fan-out-websocket", "sockets", "delivery", {"lares": figures(0.05)}, {}, "fan-out-poll"
            ),
        ],
    )


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1.0), (50, 2.0), (75, 3.0), (76, 4.0), (99, 4.0), (100, 4.0)]
)
def test_percentile_is_a_value_that_occurred(percent: float, expected: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], percent) == expected


def test_summary_takes_medians_of_trials_and_percentiles_of_operations() -> None:
    """A trial that something disturbed moves neither the rate nor the CPU."""
    trials = [
        Trial(Load(2, 1.0, [0.001, 0.002]), server_cpu=0.010, database_cpu=0.002),
        Trial(Load(4, 1.0, [0.001, 0.001, 0.003, 0.004]), server_cpu=0.020, database_cpu=0.004),
        Trial(Load(1, 9.0, [0.900]), server_cpu=0.500, database_cpu=0.400),
    ]
    summary = summarize(trials)
    assert (summary.operations, summary.rate) == (7, 2.0)
    assert (summary.p50, summary.p99) == pytest.approx((2.0, 900.0))
    assert (summary.server_cpu, summary.database_cpu) == pytest.approx((5.0, 1.0))


@pytest.mark.parametrize(("at_least", "at_most", "expected"), [(7, None, 7), (1, 1, 1), (5, 3, 3)])
def test_drive_counts_operations_of_all_clients(at_least: int, at_most: int | None, expected: int) -> None:
    """With no time at all, it makes what it must and never more than it may."""

    async def operation() -> None:
        await asyncio.sleep(0)

    load = asyncio.run(drive([operation, operation], 0.0, at_least=at_least, at_most=at_most))
    assert load.operations == len(load.latencies) == expected


@pytest.mark.parametrize(
    ("raw", "parsed"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", (200, b"{}")),
        (b"HTTP/1.1 429 Slow down\r\nX: y\r\ncontent-length:2\r\n\r\nno", (429, b"no")),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
            (200, b"abcde"),
        ),
        (b"HTTP/1.1 204 Nothing\r\nX: y\r\n\r\n", (204, b"")),
    ],
)
def test_response_is_parsed_when_whole(raw: bytes, parsed: tuple[int, bytes]) -> None:
    """Neither too early, whatever the point at which the network divides it, nor differently."""
    assert parse_response(raw) == parsed
    assert [parse_response(raw[:cut]) for cut in range(len(raw)) if parse_response(raw[:cut])] == []


def test_next_batch_is_found_without_decoding() -> None:
    assert next_batch(b'{"rooms":{},"next_batch": "s1_2"}') == "s1_2"
    with pytest.raises(ValueError, match="next_batch"):
        next_batch(b"{}")


async def web_socket_exchange(answer: bytes) -> tuple[list[bytes], bytes]:
    """Two messages received from a peer that answers the upgrade with `answer`, and what the peer then got."""
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        received = await reader.read(100)
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        got.set_result(received)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        port: int = listener.sockets[0].getsockname()[1]
        try:
            web_socket = await WebSocket.connect("127.0.0.1", port, "/ws?t=secret", {})
            try:
                messages = [await web_socket.receive(), await web_socket.receive()]
            finally:
                web_socket.close()
        finally:
            answered = await got
    return messages, answered


def test_web_socket_reassembles_messages_and_answers_pings() -> None:
    """A fragmented message with a ping inside it, then one whose length takes sixteen bits."""
    frames = b"\x01\x02ab" + b"\x89\x01p" + b"\x80\x01c" + b"\x81\x7e\x01\x00" + bytes(256)
    messages, answered = asyncio.run(web_socket_exchange(b"HTTP/1.1 101 Switching\r\n\r\n" + frames))
    assert messages == [b"abc", bytes(256)]
    assert answered == b"\x8a\x81\0\0\0\0p"


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (b"HTTP/1.1 401 No\r\n\r\n", RequestFailed, r"^GET /ws: 401"),
        (b"HTTP/1.1 101 Switching\r\n\r\n\x88\x05\x0f\xa1bye", ConnectionResetError, "bye"),
    ],
)
def test_web_socket_says_why_it_ended(answer: bytes, error: type[Exception], message: str) -> None:
    """Refused before the upgrade or closed after it; the token is not in the message."""
    with pytest.raises(error, match=message):
        asyncio.run(web_socket_exchange(answer))


def test_budgets_are_of_scenarios_that_exist() -> None:
    assert CPU_DIVISORS.keys() | P99_DIVISORS.keys() <= BY_KEY.keys()
    assert {scenario.compared_with for scenario in SCENARIOS} - {None} <= set(BY_KEY)


def test_verdicts() -> None:
    """A budget is judged where both have figures (a stand-in counts), and memory by itself."""
    assert [(verdict.actual, verdict.limit, verdict.met) for verdict in judge(results())] == [
        ("1/4.0", "≤ 1/4", True),
        ("1/7.0", "≤ 1/30", False),
        ("1/80.0", "≤ 1/60", True),
        ("1/1.0", "≤ 1/10", False),
        ("60 MiB", "≤ 70 MiB", True),
        ("2.50 ×", "≤ 2.5 × its JSON", True),
    ]


@pytest.mark.parametrize(
    ("load", "rate", "met", "counts"), [("0.10", 950.0, True, True), ("3.10", 850.0, False, False)]
)
def test_a_rate_counts_on_a_quiet_machine(load: str, rate: float, met: bool, counts: bool) -> None:
    """Where others used the machine the target is shown, and fails no run."""
    alone = results()
    alone.machine["load before"] = load
    sends = {"lares": dataclasses.replace(figures(0.1), rate=rate)}
    alone.scenarios[:] = [ScenarioResult("send-one-room", "send", "event", sends, {}, None)]
    verdict = judge(alone)[0]
    assert (verdict.limit, verdict.met, verdict.counts) == ("≥ 900/s on a quiet machine", met, counts)
    shown = "met" if met else "machine not quiet"
    assert f"| rate: send | ≥ 900/s on a quiet machine | {rate:.0f}/s | {shown} |" in report.markdown(alone)


def test_a_latency_is_judged_by_its_slowest_hundredth() -> None:
    """Where there is such a budget, the CPU has none."""
    compared = results()
    slow = dataclasses.replace(figures(9.0), p99=50.0)
    both = {"lares": figures(1.0), "synapse": slow}
    compared.scenarios[:] = [ScenarioResult("call-signalling", "calls", "invite", both, {}, None)]
    verdict = judge(compared)[0]
    assert (verdict.name, verdict.actual, verdict.limit, verdict.met) == (
        "p99: calls",
        "1/2.5",
        "p99 ≤ 1/3",
        False,
    )
    both["synapse"] = dataclasses.replace(slow, p99=61.0)
    assert judge(compared)[0].met


def test_fraction_says_so_when_we_are_dearer() -> None:
    assert fraction(0.5) == "2.0 ×"


def test_results_survive_json(tmp_path: Path) -> None:
    write_json(results(), tmp_path / "results.json")
    assert read_json(tmp_path / "results.json") == results()


def test_terminal_report_shows_figures_failures_and_budgets() -> None:
    text = report.terminal(results())
    assert "1,234" in text
    assert "polls: lares failed: Oops: no" in text
    assert "Budgets met: 4 of 6. Not met:" in text
    assert "- CPU: send | 8: 1/7.0, budget ≤ 1/30" in text
    assert "2.5 ×" in text


def test_markdown_tables_are_well_formed() -> None:
    """Every row of a table has as many cells as its head, also where a title holds a bar."""
    for block in report.markdown(results(), "chart.svg").split("\n\n"):
        rows = [line.replace("\\|", "").count("|") for line in block.splitlines() if line.startswith("|")]
        assert len(set(rows)) <= 1
    assert "send \\| 8" in report.markdown(results())


def test_document_keeps_its_prose(tmp_path: Path) -> None:
    """Only what is between the marks changes, however often it is written."""
    document = tmp_path / "performance.md"
    report.update_document(document, "first")
    document.write_text("Before.\n" + document.read_text() + "After.\n")
    report.update_document(document, "second")
    text = document.read_text()
    assert text.startswith("Before.\n# Performance")
    assert text.endswith(f"second\n\n{report.END}\nAfter.\n")
    assert "first" not in text


@pytest.mark.parametrize(
    "document", ["", report.BEGIN, f"{report.END}{report.BEGIN}", report.NEW_DOCUMENT * 2]
)
def test_document_without_its_marks_is_left_alone(document: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        replaced(document, report.BEGIN, report.END, "new")


def test_chart_is_svg_with_a_bar_per_comparison() -> None:
    root = ElementTree.fromstring(chart.draw(results()))
    kinds = [element.get("class") for element in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert kinds == ["page", "bar", "short", "bar"]


def test_chart_of_one_server_shows_its_cpu() -> None:
    alone = results()
    for scenario in alone.scenarios:
        scenario.figures.pop("lares", None)
    root = ElementTree.fromstring(chart.draw(alone))
    assert len(list(root.iter("{http://www.w3.org/2000/svg}rect"))) == 1 + 3


def test_cpu_of_children_that_ended_is_not_lost(tmp_path: Path) -> None:
    """A back-end that came and went between two looks has still used its CPU."""
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    program = (
        f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {burn!r}]);"
        "print('ready: now', flush=True); time.sleep(600)"
    )
    child = Child([sys.executable, "-c", program], log=tmp_path / "log", cwd=tmp_path)
    try:
        assert child.wait_for_line("ready:", seconds=180) == "ready: now"
        assert child.cpu_seconds() >= 0.2
        assert child.peak_resident_bytes() >= child.resident_bytes() > 0
    finally:
        child.stop()
    with pytest.raises(ProcessFailed, match="ready: now"):
        child.require_running()


def test_command_renders_saved_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--from` writes every report without measuring; `--check` fails the run for the missed budget."""
    saved = tmp_path / "results.json"
    write_json(results(), saved)
    outputs = [
        "--svg",
        str(tmp_path / "docs" / "chart.svg"),
        "--markdown",
        str(tmp_path / "docs" / "performance.md"),
    ]
    assert main(["--from", str(saved), *outputs, "--check"]) == 1
    assert "Budgets met: 4 of 6" in capsys.readouterr().out
    assert "](chart.svg)" in (tmp_path / "docs" / "performance.md").read_text()
