# SPDX-License-Identifier: Apache-2.0
"""What requests are read with: queries, typed bodies, tokens, routes, forwarded addresses, signals."""

import contextlib
from collections.abc import Callable
from ipaddress import ip_network
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver import errors
from homeserver.errors import BadJson, InvalidParam, MatrixError, MissingParam, NotJson
from homeserver.web.addresses import ProxyTrust, counted_as
from homeserver.web.bodies import Struct, parse_object, parse_typed
from homeserver.web.query import Query
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import ROOT, Match, Route, Router, WrongMethod
from homeserver.web.signals import Signal
from homeserver.web.statuses import STATUSES


@pytest.mark.parametrize(
    ("raw", "read", "value"),
    [
        (b"", lambda query: query.string("a"), None),
        (b"", lambda query: query.string("a", "b"), "b"),
        (b"a=", lambda query: query.string("a", "b"), ""),
        (b"a", lambda query: query.has("a"), True),
        (b"a=1&a=2", lambda query: query.string("a"), "2"),
        (b"a=1&a=2", lambda query: query.strings("a"), ["1", "2"]),
        (b"a=b+c%20d%2B%C3%A9", lambda query: query.required("a"), "b c d+é"),
        (b"a%62=1", lambda query: query.string("ab"), "1"),
        (b"a=-12", lambda query: query.integer("a"), -12),
        (b"", lambda query: query.integer("a", 7, minimum=1, maximum=9), 7),
        (b"a=true", lambda query: query.boolean("a"), True),
        (b"", lambda query: query.boolean("a", True), True),
        (b"dir=b", lambda query: query.enum("dir", ("b", "f")), "b"),
        (b"x=%ff&%ff=1&a=1", lambda query: query.string("a"), "1"),
    ],
)
def test_query_parameters(raw: bytes, read: Callable[[Query], object], value: object) -> None:
    assert read(Query(raw)) == value


@pytest.mark.parametrize(
    ("raw", "read", "error"),
    [
        (b"b=1", lambda query: query.required("a"), MissingParam),
        (b"a=%ff", lambda query: query.string("a"), InvalidParam),
        (b"a=%00", lambda query: query.string("a"), InvalidParam),
        (b"a=1.0", lambda query: query.integer("a"), InvalidParam),
        (b"a=", lambda query: query.integer("a"), InvalidParam),
        (b"a=--1", lambda query: query.integer("a"), InvalidParam),
        (b"a=%D9%A1", lambda query: query.integer("a"), InvalidParam),
        (b"a=9007199254740992", lambda query: query.integer("a"), InvalidParam),
        (b"a=1" + b"0" * 5000, lambda query: query.integer("a"), InvalidParam),
        (b"a=10", lambda query: query.integer("a", maximum=9), InvalidParam),
        (b"a=True", lambda query: query.boolean("a"), InvalidParam),
        (b"a=x", lambda query: query.enum("a", ("b", "f"), "b"), InvalidParam),
        (b"&".join([b"b=1"] * 1001), lambda query: query.string("a"), InvalidParam),
    ],
)
def test_wrong_query_parameters(raw: bytes, read: Callable[[Query], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        read(Query(raw))


class Body(Struct):
    """One of each."""

    name: str
    limit: Annotated[int, msgspec.Meta(ge=0)] = 10
    direction: Literal["b", "f"] | None = None
    marker: str | None = msgspec.field(name="m.fully_read", default=None)
    content: dict[str, Any] = msgspec.field(default_factory=dict)


def test_a_typed_body() -> None:
    body = parse_typed(b'{"name": "a", "m.fully_read": "$x", "direction": null, "unknown": [1.5]}', Body)
    assert (body.name, body.limit, body.direction, body.marker, body.content) == ("a", 10, None, "$x", {})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{}", "name"),
        (b'{"name": 1}', "$.name"),
        (b'{"name": null}', "$.name"),
        (b'{"name": "a", "limit": "1"}', "$.limit"),
        (b'{"name": "a", "limit": true}', "$.limit"),
        (b'{"name": "a", "limit": 1.0}', "$.limit"),
        (b'{"name": "a", "limit": -1}', "$.limit"),
        (b'{"name": "a", "direction": "x"}', "$.direction"),
        (b'{"name": "a", "content": []}', "$.content"),
        (b'{"name": "a\\u0000"}', "NUL"),
        (b'{"name": "a", "content": {"x": [{"\\u0000": 1}]}}', "NUL"),
        (b"[]", "object"),
    ],
)
def test_a_wrong_typed_body_names_the_field(raw: bytes, message: str) -> None:
    with pytest.raises(BadJson) as refused:
        parse_typed(raw, Body)
    assert message in refused.value.message


def test_an_escaped_backslash_before_u0000_is_text() -> None:
    assert parse_typed(b'{"name": "\\\\u0000"}', Body).name == "\\u0000"


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_refused(raw: bytes) -> None:
    with contextlib.suppress(NotJson, BadJson):
        assert isinstance(parse_object(raw), dict)


async def nothing(_request: MatrixRequest) -> Reply:
    return {}


def test_literals_win_over_parameters_and_lose_where_they_lead_nowhere() -> None:
    mine = Route("GET", "/rooms/mine", nothing, under=ROOT)
    room = Route("GET", "/rooms/{room_id}", nothing, under=ROOT)
    members = Route("GET", "/rooms/{id}/members", nothing, under=ROOT)
    router = Router([mine, room, members])
    assert router.match("GET", b"/rooms/mine") == _match(mine)
    assert router.match("GET", b"/rooms/mine/members") == _match(members, id="mine")
    assert router.match("HEAD", b"/rooms/other") == _match(room, room_id="other")
    assert router.match("GET", b"/rooms") is None
    with pytest.raises(WrongMethod):
        router.match("PUT", b"/rooms/mine")


def _match(route: Route, **parameters: str) -> object:
    return Match(route, parameters)


def test_two_routes_cannot_share_a_place() -> None:
    with pytest.raises(ValueError, match=r"GET /a/\{y\} is mounted twice"):
        Router([Route("GET", "/a/{x}", nothing, under=ROOT), Route("GET", "/a/{y}", nothing, under=ROOT)])


@given(st.binary(max_size=60))
def test_any_path_is_found_or_not(path: bytes) -> None:
    router = Router([Route("GET", "/a/{x}/b/{y}", nothing, under=("", "/a/b"), trailing_slash=True)])
    for tried in (b"/" + path, b"/a/" + path, b"/a/1/b/" + path):
        try:
            match = router.match("GET", tried)
        except InvalidParam:
            continue
        assert match is None or all(match.parameters.values())


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.1", ["9.9.9.9"], "203.0.113.1"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["9.9.9.9"], "9.9.9.9"),
        ("::1", ["6.6.6.6, 9.9.9.9"], "9.9.9.9"),
        ("127.0.0.1", ["6.6.6.6", "9.9.9.9, 10.0.0.7"], "9.9.9.9"),
        ("127.0.0.1", ["[2001:db8::1]:443"], "2001:db8::1"),
        ("127.0.0.1", ["9.9.9.9:5000"], "9.9.9.9"),
        ("::ffff:127.0.0.1", ["::ffff:9.9.9.9"], "9.9.9.9"),
        ("127.0.0.1", ["9.9.9.9, unknown"], "127.0.0.1"),
        ("127.0.0.1", ["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
        ("", ["9.9.9.9"], "9.9.9.9"),
    ],
)
def test_forwarded_addresses(peer: str, forwarded: list[str], client: str) -> None:
    assert ProxyTrust([ip_network("10.0.0.0/8")]).client(peer, forwarded) == client


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("203.0.113.1", "203.0.113.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:203.0.113.1", "203.0.113.1"),
        ("", ""),
    ],
)
def test_whom_limits_count_an_address_to(address: str, counted: str) -> None:
    """One IPv6 client has 2^64 addresses to take turns with."""
    assert counted_as(address) == counted


def test_a_signal_fires_once_to_those_still_subscribed() -> None:
    signal, heard = Signal(), []
    signal.subscribe(lambda: heard.append("a"))
    take_back = signal.subscribe(lambda: heard.append("b"))
    unsubscribes = [signal.subscribe(lambda: heard.append("d"))]
    signal.subscribe(lambda: heard.append("c"))
    take_back()
    signal.fire()
    signal.fire()
    assert heard == ["a", "d", "c"]
    unsubscribes[0]()
    signal.subscribe(lambda: heard.append("late"))
    assert heard[-1] == "late"


def test_a_subscriber_may_take_back_another_while_it_fires() -> None:
    signal, heard = Signal(), []
    later: list[Callable[[], None]] = []
    signal.subscribe(lambda: [each() for each in later])
    later.append(signal.subscribe(lambda: heard.append("second")))
    signal.fire()
    assert heard == []


def test_each_error_code_has_a_status() -> None:
    """No class of the tree can be raised without one, and none is mapped that nobody raises."""
    codes = {
        each.errcode
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, MatrixError)
    }
    assert codes == STATUSES.keys()
