# SPDX-License-Identifier: Apache-2.0
"""Whatever a client sends is answered: with the endpoint's own reply or an error in JSON, never a failure of ours."""

import json
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Meta

from homeserver.web.bodies import Struct
from homeserver.web.channel import Timeouts
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route
from tests.reactor import accept_leftovers, run
from tests.web.loopback import Answer, Loopback, request_bytes

SOON = Timeouts(body_grace=0.2, look=0.05)
"""A body that never ends is answered soon, a head however long this process stood still before it was read."""


class Anything(Struct):
    """A body with a bit of everything."""

    text: str = ""
    number: Annotated[int, Meta(ge=0)] | None = None
    flag: bool = False
    names: list[str] = []  # noqa: RUF012 (msgspec copies it)
    more: dict[str, Any] = {}  # noqa: RUF012


async def everything(request: MatrixRequest) -> Reply:
    """Reads all that can be read."""
    query = request.query
    query.integer("limit", 10, minimum=0)
    query.boolean("flag")
    query.enum("dir", ("b", "f"))
    body = request.body(Anything, empty_ok=True)
    return {
        "parameters": [request.param("room_id"), request.param("event_type", "")],
        "query": query.strings("q"),
        "body": request.json_object(empty_ok=True),
        "text": body.text,
        "agent": request.user_agent,
        "address": request.address,
    }


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    routes = [
        Route(method, template, everything, auth=auth, trailing_slash=True)
        for method, auth in (
            ("GET", Auth.NONE),
            ("PUT", Auth.NONE),
            ("POST", Auth.OPTIONAL),
            ("DELETE", Auth.USER),
        )
        for template in ("/rooms/{room_id}", "/rooms/{room_id}/send/{event_type}")
    ]
    loopback = Loopback(routes, max_body=2000, timeouts=SOON)
    accept_leftovers()
    yield loopback
    run(loopback.stop())


def well(answer: Answer) -> None:
    """The promise."""
    assert answer.status < 500, answer
    assert answer.headers["access-control-allow-origin"] == "*"
    if answer.status >= 400 and answer.raw:
        assert answer.headers["content-type"] == "application/json"
        assert answer.errcode.startswith("M_")
        assert isinstance(answer.json["error"], str)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
METHODS = st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "x"])
SEGMENTS = st.one_of(
    st.sampled_from(
        ["_matrix", "client", "v3", "r0", "rooms", "send", "", ".", "..", "%00", "%ff", "%2F", "%"]
    ),
    st.text(max_size=10).map(lambda text: quote(text, safe="", errors="surrogatepass")),
    st.from_regex(r"[!-~]{0,12}", fullmatch=True).map(lambda text: text.replace("/", "").replace("?", "")),
)
PATHS = st.one_of(
    st.lists(SEGMENTS, max_size=9).map(lambda parts: "/" + "/".join(parts)),
    st.lists(SEGMENTS, min_size=1, max_size=3).map(
        lambda parts: "/_matrix/client/v3/rooms/" + "/".join(parts)
    ),
)
QUERIES = st.one_of(
    st.just(""),
    st.from_regex(r"\?[!-~]{0,40}", fullmatch=True),
    st.lists(
        st.tuples(
            st.sampled_from(["limit", "flag", "dir", "q", "access_token", "user_id"]),
            st.one_of(
                st.sampled_from(["1", "-1", "true", "b", "%ff", "%00"]),
                st.from_regex(r"[!-~]{0,9}", fullmatch=True),
            ),
        ),
        max_size=4,
    ).map(lambda pairs: "?" + "&".join(f"{name}={value}" for name, value in pairs)),
)
TARGETS = st.tuples(PATHS, QUERIES).map("".join)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["Authorization", "Content-Type", "X-Forwarded-For", "X-Forwarded-Proto", "Accept-Encoding", "Upgrade",
         "Connection", "Expect", "User-Agent", "Cookie", "Range", "If-None-Match", "Origin"]
    ),
    st.one_of(
        st.sampled_from(["Bearer alice", "Bearer", "gzip", "multipart/form-data; boundary=x", "websocket", "::1"]),
        st.from_regex(r"[ -~\x80-\xff]{0,30}", fullmatch=True),
    ),
    max_size=4,
)  # fmt: skip
BODIES = st.one_of(
    st.none(),
    st.binary(max_size=60),
    st.integers(0, 400).map(lambda depth: b"[" * depth + b"]" * depth),
    st.integers(0, 400).map(lambda depth: b'{"more":' * depth + b"{}" + b"}" * depth),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {}, optional={"text": JSON, "number": JSON, "flag": JSON, "names": JSON, "more": JSON}
    ).map(lambda value: json.dumps(value).encode()),
    st.just(b"x" * 3000),
)
PATIENT = settings(
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@PATIENT
@given(method=METHODS, target=TARGETS, headers=HEADERS, body=BODIES)
async def test_every_request_is_answered_well(
    server: Loopback, method: str, target: str, headers: dict[str, str], body: bytes | None
) -> None:
    connection = await server.connect()
    connection.send(request_bytes(method, target, headers=headers, body=body))
    well(await connection.response(method))
    connection.drop()


@PATIENT
@given(raw=st.binary(max_size=200), cut=st.integers(0, 200))
async def test_every_byte_is_answered_well(server: Loopback, raw: bytes, cut: int) -> None:
    connection = await server.connect()
    whole = request_bytes("PUT", "/_matrix/client/v3/rooms/!a", body=b'{"text": "words"}')
    connection.send(whole[:cut] + raw + whole[cut:] + b"\r\n\r\nx\r\n\r\n" + b"y" * 400 + b"\r\n\r\n")
    well(await connection.response())
    connection.drop()
