# SPDX-License-Identifier: Apache-2.0
"""What has gone wrong in other web servers of homeservers, tried on this one. Each test names the advisory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.web import http

from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route
from tests.reactor import accept_leftovers, run
from tests.web.loopback import Loopback

FORM_TYPES = ("multipart/form-data; boundary=x", "multipart/form-data", "application/x-www-form-urlencoded")


async def body(request: MatrixRequest) -> Reply:
    return request.json_object()


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    """Two endpoints, one for everybody."""
    loopback = Loopback((Route("POST", "/open", body, auth=Auth.NONE), Route("PUT", "/own", body)))
    accept_leftovers()
    yield loopback
    run(loopback.stop())


def form(parts: int) -> bytes:
    """Of so many fields."""
    field = b'--x\r\nContent-Disposition: form-data; name="f%d"\r\n\r\nvalue\r\n'
    return b"".join(field % number for number in range(parts)) + b"--x--\r\n"


@pytest.mark.parametrize("content_type", FORM_TYPES)
async def test_advisory_22_a_form_is_not_taken_apart(
    server: Loopback, monkeypatch: pytest.MonkeyPatch, content_type: str
) -> None:
    """CVE-2024-52805: a body is JSON or nothing, whatever it says it is, and one that is too large is not read."""

    def parsed(*_: object) -> None:
        raise AssertionError("a form was parsed")

    for parser in ("_getMultiPartArgs", "parse_qs"):
        assert hasattr(http, parser)
        monkeypatch.setattr(http, parser, parsed)
    headers = {"Content-Type": content_type}
    for method, path, token in (("POST", "/open", None), ("PUT", "/own", "alice")):
        target = f"/_matrix/client/v3{path}"
        for raw in (form(600), b"a=1&b=2"):
            answer = await server.request(method, target, body=raw, headers=headers, token=token)
            assert (answer.status, answer.errcode) == (400, "M_NOT_JSON")
        answer = await server.request(method, target, body=b'{"a": 1}', headers=headers, token=token)
        assert (answer.status, answer.json) == (200, {"a": 1})
        large = {**headers, "Content-Length": "100000000"}
        answer = await server.request(method, target, body=b"--x\r\n", headers=large, token=token)
        assert (answer.status, answer.errcode) == (413, "M_TOO_LARGE")
    answer = await server.request("PUT", "/_matrix/client/v3/own", body=form(600), headers=headers)
    assert (answer.status, answer.errcode) == (401, "M_MISSING_TOKEN")
