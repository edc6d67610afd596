# SPDX-License-Identifier: Apache-2.0
"""Clients that are slow, rude or gone: the others notice nothing, and what they held is given back.

How long each phase of a request may last is tested on the HTTP layer itself, with short times; here it is that a
server full of such clients goes on.
"""

from __future__ import annotations

import gzip
import json
import secrets
import zlib
from pathlib import Path

import psutil
import pytest

from tests.api.conftest import Arrive
from tests.api.wire import Line, Wire, check_cors, check_error_form, check_refusal, gauge, lines, request
from tests.api.world import V3, Person, poll, segment
from tests.serving import ServerProcess, serving
from tests.waiting import wait_until

WHOAMI = f"{V3}/account/whoami"


def listeners(server: ServerProcess) -> float:
    return gauge(server, "lares_stream_listeners")


def put_message(person: Person, room: str, text: str, transaction: str, extra: str = "") -> bytes:
    path = f"{V3}/rooms/{segment(room)}/send/m.room.message/{transaction}"
    return request("PUT", path, json.dumps({"body": text}).encode(), token=person.token, extra=extra)


def bodies(person: Person, room: str) -> list[str]:
    return [event["content"]["body"] for event in person.messages(room) if event["type"] == "m.room.message"]


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"G",
        b"GET /_matrix/client/versions HTTP/1.1\r\n",
        b"GET /_matrix/client/versions HTTP/1.1\r\nHost: a\r\nX-Slow: ",
        request("POST", f"{V3}/login", b"", extra="Content-Length: 1000\r\n").replace(b"Content-Length: 0\r\n", b""),
        request("POST", f"{V3}/login", extra="Transfer-Encoding: chunked\r\n") + b"ffff\r\nsome",
    ],
    ids=["nothing", "one byte", "a line", "half a header", "no body", "half a chunk"],
)  # fmt: skip
def test_others_are_served_beside_two_hundred_slow_ones(
    server: ServerProcess, arrive: Arrive, beginning: bytes
) -> None:
    person = arrive("quick")
    room = person.creates()
    with lines(server.port, 200) as slow:
        for line in slow:
            line.send(beginning)
        for number in range(20):
            for line in slow[number::20]:
                line.push(b"x" if beginning else b"")
            person.says(room, f"message {number}")
        assert bodies(person, room) == [f"message {number}" for number in range(20)]


def test_aborted_polls_give_back_what_they_held(server: ServerProcess, arrive: Arrive) -> None:
    """Closed, half-closed or reset, and told of no news since."""
    person = arrive("poller")
    since = person.syncs(set_presence="offline")["next_batch"]
    wait_until(lambda: listeners(server) == 0, "nobody waits whom an earlier test left")
    for end in (Line.close, Line.reset, Line.half_close):
        with lines(server.port, 40) as polls:
            for line in polls:
                line.send(poll(person, since))
            wait_until(lambda: listeners(server) == 40, "the polls wait")
            for line in polls:
                end(line)
            wait_until(lambda: listeners(server) == 0, f"the server notices: {end.__name__}")
    wait_until(
        lambda: gauge(server, "lares_http_in_flight") == 1, "only the request for the figures is there"
    )


def test_a_poll_hears_of_news_after_another_was_aborted(server: ServerProcess, arrive: Arrive) -> None:
    person = arrive("poller")
    room = person.creates()
    since = person.syncs(set_presence="offline")["next_batch"]
    wait_until(lambda: listeners(server) == 0, "nobody waits whom an earlier test left")
    with lines(server.port, 2) as (gone, stays):
        gone.send(poll(person, since))
        stays.send(poll(person, since))
        wait_until(lambda: listeners(server) == 2, "both wait")
        gone.reset()
        wait_until(lambda: listeners(server) == 1, "one is gone")
        event_id = person.says(room, "news")
        told = stays.answer().body
        assert [event["event_id"] for event in told["rooms"]["join"][room]["timeline"]["events"]] == [
            event_id
        ]


def test_pipelined_requests_happen_in_order(server: ServerProcess, arrive: Arrive) -> None:
    """Ten messages and a question in one packet."""
    person = arrive("hasty")
    room = person.creates()
    line = Line(server.port)
    line.send(
        b"".join(put_message(person, room, f"m{number}", f"p{number}") for number in range(10))
        + request("GET", WHOAMI, token=person.token)
    )
    event_ids = [line.answer().body["event_id"] for _ in range(10)]
    assert line.answer().body["user_id"] == person.user_id
    line.close()
    assert len(set(event_ids)) == 10
    assert bodies(person, room) == [f"m{number}" for number in range(10)]


def test_a_request_broken_off_is_no_request(server: ServerProcess, arrive: Arrive) -> None:
    """All but its last byte, then gone: nothing is sent, and nothing remembered of the transaction."""
    person = arrive("broken")
    room = person.creates()
    for end in (Line.close, Line.reset, Line.half_close):
        line = Line(server.port)
        line.send(put_message(person, room, "never", "t")[:-1])
        end(line)
        line.close()
    assert bodies(person, room) == []
    person.says(room, "at last", "t")
    assert bodies(person, room) == ["at last"]


def test_a_client_gone_before_the_answer_may_ask_again(server: ServerProcess, arrive: Arrive) -> None:
    """Whether or not the first try was done, the second finds one event."""
    person = arrive("impatient")
    room = person.creates()
    for number in range(30):
        line = Line(server.port)
        line.send(put_message(person, room, f"m{number}", f"t{number}"))
        line.reset() if number % 2 else line.close()
        person.says(room, f"m{number}", f"t{number}")
    assert bodies(person, room) == [f"m{number}" for number in range(30)]


def test_chunked_bodies(server: ServerProcess, arrive: Arrive) -> None:
    """In single bytes, with extensions and trailers, as HTTP allows."""
    person = arrive("chunky")
    room = person.creates()
    raw = json.dumps({"body": "in parts"}).encode()
    path = f"{V3}/rooms/{segment(room)}/send/m.room.message/"
    for number, chunks in enumerate(
        (
            b"".join(b"1\r\n%c\r\n" % byte for byte in raw) + b"0\r\n\r\n",
            b"%X;name=value\r\n%s\r\n0\r\nX-Trailer: a\r\n\r\n" % (len(raw), raw),
        )
    ):
        line = Line(server.port)
        extra = "Transfer-Encoding: chunked\r\n"
        line.send(request("PUT", f"{path}t{number}", token=person.token, extra=extra) + chunks)
        assert line.answer().status == 200
        line.close()
    assert bodies(person, room) == ["in parts", "in parts"]


@pytest.mark.parametrize(
    "sent",
    [
        b"ZZ\r\n{}\r\n0\r\n\r\n",
        b"-1\r\n{}\r\n0\r\n\r\n",
        b"2\r\n{}junk\r\n0\r\n\r\n",
        b"x" * 70_000,
    ],
)
def test_broken_chunks_are_refused(server: ServerProcess, arrive: Arrive, sent: bytes) -> None:
    line = Line(server.port)
    extra = "Transfer-Encoding: chunked\r\n"
    line.push(request("POST", f"{V3}/createRoom", token=arrive("chunky").token, extra=extra) + sent)
    check_error_form(line.answer())
    line.close()


@pytest.mark.parametrize(
    "target",
    [
        "/" + "a" * 100_000,
        f"{WHOAMI}?{'x' * 100_000}",
        f"{V3}/profile/{'%C3%A9' * 20_000}",
    ],
    ids=["path", "query", "parameter"],
)
def test_very_long_targets_are_refused(server: ServerProcess, target: str) -> None:
    line = Line(server.port)
    line.push(request("GET", target))
    answer = line.answer()
    line.close()
    assert answer.status in {414, 431}
    check_error_form(answer)
    check_cors(answer)


@pytest.mark.parametrize(
    "extra",
    [
        f"X-Long: {'x' * 100_000}\r\n",
        "X-Many: x\r\n" * 5_000,
        "Authorization: Bearer " + "t" * 40_000 + "\r\n",
    ],
    ids=["long", "many", "token"],
)
def test_very_long_headers_are_refused(server: ServerProcess, extra: str) -> None:
    line = Line(server.port)
    line.push(request("GET", WHOAMI, extra=extra))
    check_error_form(line.answer())
    line.close()


def test_a_body_over_the_limit_is_refused(server: ServerProcess, arrive: Arrive) -> None:
    """Announced or not, before it is read to its end."""
    person = arrive("large")
    path = f"/user/{segment(person.user_id)}/account_data/org.example.large"
    check_refusal(person.call("PUT", path, {"a": "x" * (9 << 20)}), 413, "M_TOO_LARGE")
    line = Line(server.port)
    line.send(request("PUT", V3 + path, token=person.token, extra="Transfer-Encoding: chunked\r\n"))
    piece = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    for _ in range(9):
        line.push(piece)
    check_refusal(line.answer(), 413, "M_TOO_LARGE")
    line.close()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip"])
def test_compressed_requests_are_not_unpacked(server: ServerProcess, arrive: Arrive, encoding: str) -> None:
    """64 MiB in 64 KiB: refused at the cost of the 64 KiB."""
    person = arrive("bomber")
    text = b'{"a": "' + b"0" * (64 << 20) + b'"}'
    bomb = zlib.compress(text) if encoding == "deflate" else gzip.compress(text)
    before = memory_of(server)
    for _ in range(8):
        answer = person.call("POST", "/createRoom", bomb, headers={"Content-Encoding": encoding})
        check_error_form(answer)
        assert answer.status in {400, 413, 415}
    assert memory_of(server) - before < 32 << 20


def memory_of(server: ServerProcess) -> int:
    """Bytes that those who serve hold."""
    return sum(psutil.Process(pid).memory_info().rss for pid in server.serving_pids())


def test_half_closed_requests_are_answered_or_dropped(server: ServerProcess, arrive: Arrive) -> None:
    """Either is HTTP; a connection that is kept for a client who will never speak again is not."""
    person = arrive("half")
    room = person.creates()
    transaction = secrets.token_hex(4)
    line = Line(server.port, patience=60.0)  # less than a connection is kept for between two requests
    line.send(put_message(person, room, "heard", transaction))
    line.half_close()
    line.rest()
    line.close()
    person.says(room, "heard", transaction)
    assert bodies(person, room) == ["heard"]


def test_connections_beyond_what_the_system_allows_are_turned_away(tmp_path: Path) -> None:
    """The server keeps its files and database, serves who is connected, and takes new clients when there is room."""
    server = ServerProcess(tmp_path, workers=1, settings={"limits": {"open_files": 320}})
    try:
        server.start()
        person = Person.arrives(server, "inside")
        room = person.creates()
        with lines(server.port, 300) as crowd:
            versions = request("GET", "/_matrix/client/versions")
            crowd[0].send(versions)  # lest it be hung up on for its silence
            assert crowd[0].answer().status == 200
            # The last of the crowd are hung up on; who is in, is served.
            assert crowd[-1].rest() == b""
            crowd[0].send(versions)
            assert crowd[0].answer().status == 200
            person.says(room, "still here")
        wait_until(lambda: _welcomed(server), "there is room again")
        server.stop()
        assert "Traceback" not in server.log()
    finally:
        server.close()


def _welcomed(server: ServerProcess) -> bool:
    wire = Wire(server.port)
    try:
        return wire.call("GET", "/_matrix/client/versions").status == 200
    except OSError:
        return False
    finally:
        wire.close()


def test_stopping_does_not_wait_for_slow_clients(tmp_path: Path) -> None:
    """Polls return, requests that never came are dropped, and the exit is clean."""
    with serving(tmp_path) as server, lines(server.port, 20) as slow:
        person = Person.arrives(server, "poller")
        since = person.syncs(set_presence="offline")["next_batch"]
        for line in slow[:10]:
            line.send(b"GET /_matrix/client/versions HTTP/1.1\r\nHost: a\r\n")
        for line in slow[10:]:
            line.send(poll(person, since))
        wait_until(lambda: listeners(server) == 10, "the polls wait")
        server.stop(timeout=60)
        for line in slow[10:]:
            assert line.answer().status == 200
