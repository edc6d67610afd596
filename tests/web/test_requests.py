# SPDX-License-Identifier: Apache-2.0
"""A request's way over loopback: routing, CORS, tokens, bodies, errors, limits, logs."""

import gc
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from homeserver.errors import Forbidden, NotFound, UiaRequired, Unknown
from homeserver.protocol.errors import CanonicalJsonError
from homeserver.web.authentication import Requester
from homeserver.web.exchange import Exchange
from homeserver.web.rate_limits import Limit
from homeserver.web.replies import CORS, JsonBytes, Reply, Response, redirect
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import ROOT, Auth, Route
from tests.reactor import accept_leftovers, run
from tests.web.loopback import ALICE, Loopback

LARGE = {"chunk": ["the same words again and again"] * 1000}


async def echo(request: MatrixRequest) -> Reply:
    """What the handler was given."""
    return {
        "method": request.method,
        "room_id": request.param("room_id", ""),
        "event_type": request.param("event_type", ""),
        "state_key": request.param("state_key", "none"),
        "query": request.query.strings("q"),
        "target": request.target,
        "address": request.address,
        "secure": request.secure,
    }


async def whoami(request: MatrixRequest) -> Reply:
    requester = request.requester_or_none
    return {"user_id": None if requester is None else requester.user_id}


async def body(request: MatrixRequest) -> Reply:
    return request.json_object()


async def optional_body(request: MatrixRequest) -> Reply:
    return request.json_object(empty_ok=True)


async def large(_request: MatrixRequest) -> Reply:
    return LARGE


async def encoded(_request: MatrixRequest) -> Reply:
    return JsonBytes(b'{"as": "is"}')


async def elsewhere(_request: MatrixRequest) -> Reply:
    return redirect("https://example.org/")


async def fails(request: MatrixRequest) -> Reply:
    failures: dict[str, Exception] = {
        "not-found": NotFound("Nothing there"),
        "unknown": Unknown("That cannot be"),
        "protocol": CanonicalJsonError("floats have no canonical form"),
        "uia": UiaRequired(
            flows=[{"stages": ["m.login.dummy"]}], params={}, session="s", reason=Forbidden("Wrong")
        ),
        "defect": RuntimeError("secret"),
    }
    raise failures[request.param("how")]


async def breaks_header(_request: MatrixRequest) -> Reply:
    return Response(200, b"", {"X-Bad": "a\r\nSet-Cookie: b"})


async def unencodable(_request: MatrixRequest) -> Reply:
    return {"value": object()}


STATE = "/rooms/{room_id}/state/{event_type}"
ROUTES = (
    Route("GET", STATE, echo, auth=Auth.NONE, trailing_slash=True),
    Route(
        "GET", STATE + "/{state_key}", echo, auth=Auth.NONE, also=("/old/{room_id}/{event_type}/{state_key}",)
    ),
    Route("PUT", STATE, body, auth=Auth.NONE),
    Route("GET", "/account/whoami", whoami, limit="messages"),
    Route("GET", "/maybe", whoami, auth=Auth.OPTIONAL),
    Route("GET", "/guests", whoami, auth=Auth.GUEST_OK),
    Route("GET", "/admins", whoami, auth=Auth.ADMIN),
    Route("GET", "/services", whoami, auth=Auth.APPSERVICE),
    Route("POST", "/logout", whoami, locked_ok=True),
    Route("POST", "/write", whoami, suspended_ok=False),
    Route("POST", "/optional", optional_body, auth=Auth.NONE),
    Route("GET", "/large", large, auth=Auth.NONE),
    Route("GET", "/encoded", encoded, auth=Auth.NONE),
    Route("GET", "/elsewhere", elsewhere, auth=Auth.NONE),
    Route("GET", "/fails/{how}", fails, auth=Auth.NONE),
    Route("GET", "/late/{how}", fails, auth=Auth.NONE, statuses={"M_NOT_FOUND": 400}),
    Route("GET", "/broken/header", breaks_header, auth=Auth.NONE),
    Route("GET", "/broken/json", unencodable, auth=Auth.NONE),
    Route("GET", "/root", echo, under=ROOT, auth=Auth.NONE),
)
TOKENS = {
    "alice": ALICE,
    "guest": Requester(user_id="@1:test", is_guest=True),
    "admin": Requester(user_id="@admin:test", is_admin=True),
    "locked": Requester(user_id="@locked:test", is_locked=True),
    "suspended": Requester(user_id="@suspended:test", is_suspended=True),
    "service": Requester(user_id="@bot:test", appservice_id="bridge", rate_limited=False),
}
V3 = "/_matrix/client/v3"


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    """One server for the whole module, with a narrow limit on one route."""
    loopback = Loopback(ROUTES, tokens=TOKENS, limits={"messages": Limit(0.001, 3), "reads": Limit(1e6, 1e6)})
    accept_leftovers()
    yield loopback
    run(loopback.stop())


def has_cors(headers: object) -> bool:
    """Whether every CORS header is there, word for word."""
    assert isinstance(headers, dict)
    return all(headers.get(name.lower()) == value for name, value in CORS.items())


@pytest.mark.parametrize("prefix", ["v3", "r0", "v1", "unstable"])
async def test_an_endpoint_answers_under_every_prefix(server: Loopback, prefix: str) -> None:
    answer = await server.request("GET", f"/_matrix/client/{prefix}/rooms/!a:b/state/m.room.name/")
    assert (answer.status, answer.json["event_type"]) == (200, "m.room.name")


@pytest.mark.parametrize(
    ("path", "room_id", "state_key"),
    [
        ("/rooms/!a:b/state/t", "!a:b", "none"),
        ("/rooms/!a:b/state/t/", "!a:b", "none"),
        ("/rooms/%21a%3Ab/state/t/%40c%3Ad", "!a:b", "@c:d"),
        ("/rooms/!a%2Fb/state/t/k%2F", "!a/b", "k/"),
        ("/rooms/!a%252Fb/state/t/%2525", "!a%2Fb", "%25"),
        ("/rooms/!a+b/state/t/%C3%A9", "!a+b", "é"),
        ("/rooms/!a/state/t/%zz", "!a", "%zz"),
    ],
)
async def test_segments_are_decoded_once(server: Loopback, path: str, room_id: str, state_key: str) -> None:
    answer = await server.request("GET", V3 + path)
    assert answer.status == 200
    assert (answer.json["room_id"], answer.json["state_key"]) == (room_id, state_key)


@pytest.mark.parametrize(
    ("method", "path", "status", "errcode"),
    [
        ("GET", "/", 404, "M_UNRECOGNIZED"),
        ("GET", "/_matrix/client/v3/nothing", 404, "M_UNRECOGNIZED"),
        ("GET", "/_matrix/client/v4/account/whoami", 404, "M_UNRECOGNIZED"),
        ("GET", V3 + "/rooms//state/t", 404, "M_UNRECOGNIZED"),
        ("GET", V3 + "/account/whoami/", 404, "M_UNRECOGNIZED"),
        ("GET", V3 + "/rooms/!a/state/t/k/", 404, "M_UNRECOGNIZED"),
        ("POST", V3 + "/account/whoami", 405, "M_UNRECOGNIZED"),
        ("BREW", V3 + "/account/whoami", 405, "M_UNRECOGNIZED"),
        ("GET", V3 + "/rooms/%ff/state/t", 400, "M_INVALID_PARAM"),
        ("GET", V3 + "/rooms/a%00b/state/t", 400, "M_INVALID_PARAM"),
        ("GET", V3 + "/account/whoami", 401, "M_MISSING_TOKEN"),
        ("GET", V3 + "/fails/not-found", 404, "M_NOT_FOUND"),
        ("GET", V3 + "/late/not-found", 400, "M_NOT_FOUND"),
        ("GET", V3 + "/fails/unknown", 400, "M_UNKNOWN"),
        ("GET", V3 + "/fails/protocol", 400, "M_BAD_JSON"),
        ("GET", V3 + "/fails/uia", 401, "M_FORBIDDEN"),
    ],
)
async def test_refusals_are_json_with_cors(
    server: Loopback, method: str, path: str, status: int, errcode: str
) -> None:
    answer = await server.request(method, path)
    assert (answer.status, answer.errcode) == (status, errcode)
    assert answer.json["error"]
    assert answer.headers["content-type"] == "application/json"
    assert has_cors(answer.headers)


@pytest.mark.parametrize("path", ["/fails/defect", "/broken/header", "/broken/json"])
async def test_a_defect_says_nothing_of_itself(server: Loopback, path: str) -> None:
    answer = await server.request("GET", V3 + path)
    assert (answer.status, answer.json) == (500, {"errcode": "M_UNKNOWN", "error": "Internal server error"})
    assert has_cors(answer.headers)


async def test_wrong_method_names_the_right_ones(server: Loopback) -> None:
    answer = await server.request("DELETE", V3 + "/rooms/!a/state/t")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS, PUT")


async def test_an_answered_request_leaves_nothing_for_the_collector(server: Loopback) -> None:
    """It is found late, and its passes are what a busy server waits for."""
    gc.collect()
    before = exchanges()
    gc.disable()
    try:
        for method, path, status in (
            ("GET", f"{V3}/maybe", 200),
            ("DELETE", f"{V3}/maybe", 405),
            ("GET", f"{V3}/nowhere", 404),
            ("GET", f"{V3}/fails/%FF", 400),
            ("GET", f"{V3}/guests", 401),
        ):
            assert (await server.request(method, path)).status == status
        assert [each for each in exchanges() if each not in before] == []
    finally:
        gc.enable()


def exchanges() -> list[Exchange]:
    """Those there are; one of an earlier test may not be over yet."""
    return [each for each in gc.get_objects() if isinstance(each, Exchange)]


@pytest.mark.parametrize("path", ["*", "/", "/nothing", V3 + "/account/whoami", V3 + "/rooms/%ff/state/t"])
async def test_options_is_answered_everywhere_and_does_nothing(server: Loopback, path: str) -> None:
    answer = await server.request("OPTIONS", path, headers={"Access-Control-Request-Method": "PUT"})
    assert (answer.status, answer.raw) == (204, b"")
    assert has_cors(answer.headers)


async def test_head_is_get_without_the_body(server: Loopback) -> None:
    connection = await server.connect()
    whole = await connection.request("GET", V3 + "/encoded")
    head = await connection.request("HEAD", V3 + "/encoded")
    connection.drop()
    assert whole.raw == b'{"as": "is"}'
    assert (head.status, head.headers["content-length"]) == (200, str(len(whole.raw)))


async def test_redirects_have_cors(server: Loopback) -> None:
    answer = await server.request("GET", V3 + "/elsewhere")
    assert (answer.status, answer.headers["location"]) == (302, "https://example.org/")
    assert has_cors(answer.headers)


@pytest.mark.parametrize(
    ("method", "path", "token", "outcome"),
    [
        ("GET", "/guests", "alice", 200),
        ("GET", "/guests", "guest", 200),
        ("GET", "/maybe", "guest", 200),
        ("GET", "/maybe", None, 200),
        ("GET", "/maybe", "wrong", "M_UNKNOWN_TOKEN"),
        ("GET", "/account/whoami", "guest", "M_GUEST_ACCESS_FORBIDDEN"),
        ("GET", "/admins", "admin", 200),
        ("GET", "/admins", "alice", "M_FORBIDDEN"),
        ("GET", "/services", "service", 200),
        ("GET", "/services", "alice", "M_FORBIDDEN"),
        ("GET", "/guests", "locked", "M_USER_LOCKED"),
        ("POST", "/logout", "locked", 200),
        ("GET", "/guests", "suspended", 200),
        ("POST", "/write", "suspended", "M_USER_SUSPENDED"),
    ],
)
async def test_who_may_call(
    server: Loopback, method: str, path: str, token: str | None, outcome: int | str
) -> None:
    answer = await server.request(method, V3 + path, token=token)
    assert outcome == (answer.status if answer.status == 200 else answer.errcode)


async def test_locked_accounts_are_told_to_wait_and_unknown_tokens_to_leave(server: Loopback) -> None:
    locked = await server.request("GET", V3 + "/guests", token="locked")
    unknown = await server.request("GET", V3 + "/guests", token="wrong")
    assert (locked.status, locked.json["soft_logout"]) == (401, True)
    assert (unknown.status, unknown.json["soft_logout"]) == (401, False)


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("?access_token=alice", {}, 200),
        ("", {"Authorization": "Bearer alice"}, 200),
        ("", {"Authorization": "bearer   alice "}, 200),
        ("?access_token=alice", {"Authorization": "Bearer alice"}, 200),
        ("?access_token=alice", {"Authorization": "Bearer guest"}, 401),
        ("?access_token=alice&access_token=guest", {}, 401),
        ("?access_token=", {}, 401),
        ("", {"Authorization": "Basic YWxpY2U6"}, 401),
        ("?access_token=%ff", {}, 400),
    ],
)
async def test_where_a_token_may_stand(
    server: Loopback, query: str, headers: dict[str, str], status: int
) -> None:
    answer = await server.request("GET", V3 + "/guests" + query, headers=headers)
    assert answer.status == status


@pytest.mark.parametrize(
    ("raw", "errcode"),
    [
        (b"", "M_NOT_JSON"),
        (b"{", "M_NOT_JSON"),
        (b'{"a": NaN}', "M_NOT_JSON"),
        (b'{"a": Infinity}', "M_NOT_JSON"),
        (b'{"a": 1e400}', "M_NOT_JSON"),
        (b'{"a": "\xff"}', "M_NOT_JSON"),
        (b'{"a": "\\ud800"}', "M_NOT_JSON"),
        (b"\xef\xbb\xbf{}", "M_NOT_JSON"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "M_NOT_JSON"),
        (b'{"a":' * 201 + b"1" + b"}" * 201, "M_BAD_JSON"),
        (b'{"a": 9007199254740992}', "M_BAD_JSON"),
        (b'{"a": -9007199254740992}', "M_BAD_JSON"),
        (b'{"a": 123456789012345678901234567890}', "M_BAD_JSON"),
        (b"[]", "M_BAD_JSON"),
        (b"null", "M_BAD_JSON"),
        (b'"text"', "M_BAD_JSON"),
    ],
)
async def test_what_is_no_json_object(server: Loopback, raw: bytes, errcode: str) -> None:
    answer = await server.request("PUT", V3 + "/rooms/!a/state/t", body=raw)
    assert (answer.status, answer.errcode) == (400, errcode)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (
            b'{"a": 9007199254740991, "b": [-0.5, null, true]}',
            {"a": 9007199254740991, "b": [-0.5, None, True]},
        ),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b'{"a": "1234567890123456789012"}', {"a": "1234567890123456789012"}),
        (b'{"a": "\\u0000"}', {"a": "\0"}),
    ],
)
async def test_what_is_one(server: Loopback, raw: bytes, value: object) -> None:
    for content_type in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
        answer = await server.request(
            "PUT", V3 + "/rooms/!a/state/t", body=raw, headers={"Content-Type": content_type}
        )
        assert (answer.status, answer.json) == (200, value)


async def test_no_body_where_none_is_needed(server: Loopback) -> None:
    assert (await server.request("POST", V3 + "/optional")).json == {}
    assert (await server.request("POST", V3 + "/optional", body=b"")).json == {}
    assert (await server.request("POST", V3 + "/optional", body=b"{}")).json == {}


async def test_an_empty_bucket_answers_429_with_the_wait(server: Loopback) -> None:
    answers = [await server.request("GET", V3 + "/account/whoami", token="alice") for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    refused = answers[-1]
    assert refused.errcode == "M_LIMIT_EXCEEDED"
    assert 900_000 <= refused.json["retry_after_ms"] <= 1_000_000
    assert refused.headers["retry-after"] == str(-(-refused.json["retry_after_ms"] // 1000))
    assert has_cors(refused.headers)
    # Another user has a bucket of their own, an exempt service none.
    assert (await server.request("GET", V3 + "/account/whoami", token="admin")).status == 200
    assert {
        (await server.request("GET", V3 + "/account/whoami", token="service")).status for _ in range(5)
    } == {200}


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        ("gzip, deflate, br", True),
        ("br;q=1, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("br", False),
        (None, False),
    ],
)
async def test_large_json_is_compressed_for_those_who_ask(
    server: Loopback, accepted: str | None, compressed: bool
) -> None:
    headers = {} if accepted is None else {"Accept-Encoding": accepted}
    answer = await server.request("GET", V3 + "/large", headers=headers)
    assert answer.json == LARGE
    assert (answer.headers.get("content-encoding") == "gzip") is compressed
    assert answer.headers["cache-control"] == "no-store"
    small = await server.request("GET", V3 + "/encoded", headers=headers)
    assert "content-encoding" not in small.headers


async def test_other_templates_have_the_same_parameters(server: Loopback) -> None:
    answer = await server.request("GET", "/old/!a/t/k?q=1&q=b+c%2B&_cacheBuster=%ff")
    assert (answer.json["state_key"], answer.json["query"]) == ("k", ["1", "b c+"])
    assert answer.json["target"] == "/old/!a/t/k?q=1&q=b+c%2B&_cacheBuster=%ff"


async def test_the_log_names_the_route_and_no_secret(server: Loopback) -> None:
    await server.request("GET", V3 + "/guests?access_token=alice")
    line = server.lines.getvalue().splitlines()[-1]
    assert f"method=GET route={V3}/guests status=200" in line
    assert line.endswith("user=@alice:test")
    assert "access_token" not in line


async def test_a_limit_by_address_counts_a_network_of_ipv6_as_one() -> None:
    routes = (Route("GET", "/root", echo, under=ROOT, auth=Auth.NONE, limit="discovery"),)
    server = Loopback(routes, limits={"discovery": Limit(0.001, 2)})
    statuses = [
        (await server.request("GET", "/root", headers={"X-Forwarded-For": address})).status
        for address in ("2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1")
    ]
    await server.stop()
    assert statuses == [200, 200, 429, 200]


async def test_proxies_are_believed_if_they_are_ours() -> None:
    routes = (Route("GET", "/root", echo, under=ROOT, auth=Auth.NONE),)
    server = Loopback(routes, trusted_proxies=[ip_network("10.0.0.0/8")])
    headers = {"X-Forwarded-For": "6.6.6.6, 203.0.113.9, 10.1.2.3", "X-Forwarded-Proto": "https"}
    answer = await server.request("GET", "/root", headers=headers)
    plain = await server.request("GET", "/root")
    await server.stop()
    assert (answer.json["address"], answer.json["secure"]) == ("203.0.113.9", True)
    assert (plain.json["address"], plain.json["secure"]) == ("127.0.0.1", False)
