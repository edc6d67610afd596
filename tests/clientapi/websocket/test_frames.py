# SPDX-License-Identifier: Apache-2.0
"""Frames: what is read as a request, and how answers look."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.clientapi.websocket.frames import BadFrame, Call, error_frame, read_call, result_frame
from homeserver.errors import Forbidden, LimitExceeded
from homeserver.protocol.errors import CanonicalJsonError
from storage.database import DatabaseUnavailable, LockTimeout, StatementTimeout


@pytest.mark.parametrize(
    ("frame", "call"),
    [
        ({"id": "1", "method": "ping"}, Call("1", "ping", {})),
        ({"id": "1", "method": "ping", "params": None}, Call("1", "ping", {})),
        ({"id": "1", "method": "send", "params": {"a": 1}}, Call("1", "send", {"a": 1})),
        ({"id": "1", "method": "send", "param": {"a": 1}}, Call("1", "send", {"a": 1})),
        ({"id": "1", "method": "send", "params": {"a": 1}, "param": {"b": 1}}, Call("1", "send", {"a": 1})),
    ],
)
def test_requests_are_read(frame: dict[str, Any], call: Call) -> None:
    """`params` may be missing, and may have its old name."""
    assert read_call(orjson.dumps(frame)) == call


@pytest.mark.parametrize(
    ("frame", "call_id", "errcode"),
    [
        (b"{", None, "M_NOT_JSON"),
        (b"\xff", None, "M_NOT_JSON"),
        (b"[]", None, "M_BAD_JSON"),
        (b"null", None, "M_BAD_JSON"),
        (b'{"method":"ping"}', None, "M_BAD_JSON"),
        (b'{"id":1,"method":"ping"}', None, "M_BAD_JSON"),
        (b'{"id":"","method":"ping"}', None, "M_BAD_JSON"),
        (b'{"id":"1"}', "1", "M_BAD_JSON"),
        (b'{"id":"1","method":7}', "1", "M_BAD_JSON"),
        (b'{"id":"1","method":"ping","params":[]}', "1", "M_BAD_JSON"),
        (b'{"id":"1","method":"ping","params":{"n":9007199254740993}}', None, "M_BAD_JSON"),
        (b'{"id":"1","params":' + b"[" * 300 + b"]" * 300 + b"}", None, "M_BAD_JSON"),
    ],
)
def test_what_is_no_request_is_refused_with_its_id(frame: bytes, call_id: str | None, errcode: str) -> None:
    with pytest.raises(BadFrame) as caught:
        read_call(frame)
    assert (caught.value.id, caught.value.error.errcode) == (call_id, errcode)


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_no_bytes_break_the_reader(frame: bytes) -> None:
    try:
        read_call(frame)
    except BadFrame as bad:
        assert orjson.loads(error_frame(bad.id, bad.error))["error"]["errcode"]


def test_answers_have_the_id_and_a_result_or_an_error() -> None:
    """Errors keep their fields; failures of ours do not tell what they are."""
    assert orjson.loads(result_frame("1", {"event_id": "$e"})) == {"id": "1", "result": {"event_id": "$e"}}
    assert orjson.loads(error_frame("1", Forbidden("no"))) == {
        "id": "1",
        "error": {"errcode": "M_FORBIDDEN", "error": "no"},
    }
    assert orjson.loads(error_frame("1", LimitExceeded(70)))["error"]["retry_after_ms"] == 70
    assert orjson.loads(error_frame("1", CanonicalJsonError("float")))["error"]["errcode"] == "M_BAD_JSON"
    for late in (StatementTimeout("slow"), LockTimeout("locked"), DatabaseUnavailable("away")):
        again = orjson.loads(error_frame("1", late))["error"]
        assert (again["errcode"], again["error"]) == ("M_UNKNOWN", "The server cannot do this now")
        assert 2000 <= again["retry_after_ms"] <= 5000
    hidden = orjson.loads(error_frame("1", ValueError("secret")))["error"]
    assert hidden == {"errcode": "M_UNKNOWN", "error": "Internal server error"}
