# SPDX-License-Identifier: Apache-2.0
"""What is written and counted: lines of the log, access lines, figures."""

import io
import json
import logging

import pytest
from prometheus_client import CollectorRegistry
from twisted.internet.task import Clock

from homeserver.observability.access_log import AccessLog
from homeserver.observability.context import request_id
from homeserver.observability.log_output import LATEST, LogOutput
from homeserver.observability.logging import Format, LineHandler
from homeserver.observability.metrics import HttpMetrics, render

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def lines(form: Format, level: int, message: str, *args: object, **extra: object) -> str:
    """What one record becomes."""
    stream = io.StringIO()
    logger = logging.Logger("homeserver.test")
    logger.addHandler(LineHandler(LogOutput(stream), form))
    logger.log(level, message, *args, **extra)  # type: ignore[arg-type]
    return stream.getvalue()


def test_text_lines() -> None:
    written = lines("text", logging.WARNING, "queue is %s", "long", extra={"fields": {"to": "a b", "n": 3}})
    stamp, rest = written.split(" ", 1)
    assert rest == 'warning homeserver.test queue is long to="a b" n=3\n'
    assert stamp.endswith("Z")


def test_a_line_cannot_be_broken_by_what_it_says() -> None:
    written = lines("text", logging.ERROR, "a\nb", extra={"fields": {"x": "1\n2 error forged"}})
    assert written.count("\n") == 1


def test_json_lines_carry_the_request_and_the_traceback() -> None:
    token = request_id.set("abc-1")
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        written = json.loads(lines("json", logging.ERROR, "failed", exc_info=True))
    finally:
        request_id.reset(token)
    assert (written["request"], written["level"], written["message"]) == ("abc-1", "error", "failed")
    assert written["traceback"].endswith("RuntimeError: broken")


def test_lines_are_written_together_unless_one_matters() -> None:
    clock, stream = Clock(), io.StringIO()
    output = LogOutput(stream)
    output.buffer(clock.callLater)
    output.write("one")
    output.write("two")
    assert stream.getvalue() == ""
    clock.advance(LATEST)
    assert stream.getvalue() == "one\ntwo\n"
    output.write("three")
    logger = logging.Logger("x")
    logger.addHandler(LineHandler(output, "text"))
    logger.warning("four")
    assert [line[-5:].strip() for line in stream.getvalue().splitlines()[2:]] == ["three", "four"]
    output.write("x" * 70_000)
    assert stream.getvalue().endswith("xxx\n")
    output.write("last")
    output.close()
    assert stream.getvalue().endswith("last\n")
    assert clock.getDelayedCalls() == []


def test_a_closed_stream_does_not_stop_the_server() -> None:
    stream = io.StringIO()
    stream.close()
    LogOutput(stream).write("line")


@pytest.mark.parametrize("form", ["text", "json"])
def test_access_lines(form: Format) -> None:
    stream = io.StringIO()
    log = AccessLog(LogOutput(stream), form)
    log.write(request="r-1", method="GET", route="/a/{b}", status=200, seconds=0.01234, user=None)
    if form == "json":
        line = json.loads(stream.getvalue())
        assert (line["route"], line["status"], line["ms"], line["user"]) == ("/a/{b}", 200, 12.3, None)
    else:
        assert stream.getvalue().endswith(
            "info access request=r-1 method=GET route=/a/{b} status=200 ms=12.3 user=-\n"
        )


def test_figures() -> None:
    registry = CollectorRegistry()
    metrics = HttpMetrics()
    registry.register(metrics)
    metrics.observe("/a", "GET", 200, 0.002)
    metrics.observe("/a", "GET", 404, 60.0)
    metrics.observe("/a", "BREW", 405, 0.001)
    text = render(registry).decode()
    assert 'lares_http_requests_total{method="GET",route="/a",status="404"} 1.0' in text
    assert 'lares_http_requests_total{method="other",route="/a",status="405"} 1.0' in text
    assert 'lares_http_request_seconds_bucket{le="0.0025",method="GET",route="/a"} 1.0' in text
    assert 'lares_http_request_seconds_count{method="GET",route="/a"} 2.0' in text
