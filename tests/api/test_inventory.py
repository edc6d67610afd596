# SPDX-License-Identifier: Apache-2.0
"""Every endpoint is there, under every name clients know it by, for those who may call it and nobody else."""

from __future__ import annotations

import pytest

from tests.api.endpoints import ENDPOINTS, PREFIXES, Endpoint
from tests.api.wire import Wire, check_cors, check_refusal, errcode_of
from tests.api.world import World
from tests.serving import ServerProcess

PRIVATE = [endpoint for endpoint in ENDPOINTS if endpoint.access != "anyone"]
PATHS = sorted({path for endpoint in ENDPOINTS for path in endpoint.paths})


@pytest.fixture(scope="module")
def wire(server: ServerProcess) -> Wire:
    return Wire(server.port)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=str)
def test_served_under_every_prefix(wire: Wire, world: World, endpoint: Endpoint) -> None:
    """Without a token: answered, or refused for want of it, never unknown."""
    for template in endpoint.paths:
        answer = wire.call(endpoint.method, world.path(template), world.fill(endpoint.body))
        check_cors(answer)
        if endpoint.access == "anyone":
            assert errcode_of(answer) != "M_UNRECOGNIZED", (template, answer)
            assert answer.status < 500, (template, answer)
        else:
            check_refusal(answer, 401, "M_MISSING_TOKEN")


@pytest.mark.parametrize("endpoint", PRIVATE, ids=str)
def test_an_unknown_token_is_no_token(wire: Wire, world: World, endpoint: Endpoint) -> None:
    """In the header as in the query, and not taken for a soft log-out."""
    path = world.path(endpoint.paths[0])
    body = world.fill(endpoint.body)
    for answer in (
        wire.call(endpoint.method, path, body, token="syt_none"),
        wire.call(endpoint.method, path, body, query={"access_token": "syt_none"}),
    ):
        check_refusal(answer, 401, "M_UNKNOWN_TOKEN")
        assert answer.body.get("soft_logout", False) is False


@pytest.mark.parametrize("endpoint", PRIVATE, ids=str)
def test_guests_only_where_allowed(wire: Wire, world: World, endpoint: Endpoint) -> None:
    """Where guests may call, what they may do is still the endpoint's to say."""
    path, token = world.path(endpoint.paths[0]), world.guest.token
    query = {"timeout": "0", "room_id": world.values["room"]}
    answer = wire.call(endpoint.method, path, world.fill(endpoint.body), token=token, query=query)
    if endpoint.access == "guests":
        assert answer.status < 500, answer
        # A room that takes no guests says so with the same code, which tells nothing of the endpoint.
        writes = endpoint.method != "GET"
        assert errcode_of(answer) != "M_GUEST_ACCESS_FORBIDDEN" or writes, answer
    else:
        check_refusal(answer, 403, "M_GUEST_ACCESS_FORBIDDEN")


@pytest.mark.parametrize("endpoint", [each for each in ENDPOINTS if each.access == "admins"], ids=str)
def test_administration_is_for_administrators(wire: Wire, world: World, endpoint: Endpoint) -> None:
    path = world.path(endpoint.paths[0])
    answer = wire.call(endpoint.method, path, world.fill(endpoint.body), token=world.me.token)
    check_refusal(answer, 403, "M_FORBIDDEN")


def test_a_wrong_method_is_told_from_an_unknown_path(wire: Wire, world: World) -> None:
    for template in PATHS:
        answer = wire.call("PATCH", world.path(template), {}, token=world.me.token)
        check_refusal(answer, 405, "M_UNRECOGNIZED")
        assert "OPTIONS" in answer.headers["allow"]
        unknown = wire.call("GET", world.path(template) + "/no/such/thing/at/all")
        check_refusal(unknown, 404, "M_UNRECOGNIZED")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/favicon.ico",
        "/_matrix",
        "/_matrix/client",
        "/_matrix/client/v3",
        "/_matrix/client/v99/sync",
        "/_matrix/client/r0/../v3/account/whoami",
        "/_matrix/client/v3//account/whoami",
        "/_matrix/client/v3/account/whoami/",
        "/_matrix/client/v3/account%2Fwhoami",
        "/_matrix/client/V3/account/whoami",
        "/_matrix/client/unstable/org.example.none/thing",
        "/_matrix/identity/v2/hash_details",
        "/.well-known/matrix/none",
    ],
)
def test_unknown_paths(wire: Wire, world: World, path: str) -> None:
    """With a token or without, whatever the method."""
    for method in ("GET", "POST", "PUT", "DELETE"):
        body: object = None if method == "GET" else {}
        check_refusal(wire.call(method, path, body), 404, "M_UNRECOGNIZED")
        check_refusal(wire.call(method, path, body, token=world.me.token), 404, "M_UNRECOGNIZED")


def test_browsers_may_ask_first(wire: Wire, world: World) -> None:
    """OPTIONS on every path, known or not, needs no token and does nothing."""
    asked = {
        "Origin": "https://app.example.org",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    before = world.me.sees()
    for path in [
        *(world.path(template) for template in PATHS),
        "/",
        "/_matrix/none",
        "/_matrix/media/v3/upload",
    ]:
        answer = wire.call("OPTIONS", path, headers=asked)
        assert answer.status in {200, 204} and answer.raw == b"", (path, answer)
        check_cors(answer)
    assert world.me.sees() == before


UNSTABLE = "/_matrix/client/unstable"
PROMISED = {
    "org.matrix.e2e_cross_signing": ("POST", "/keys/device_signing/upload"),
    "org.matrix.msc2432": ("GET", "/org.matrix.msc2432/rooms/{roomId}/aliases"),
    "org.matrix.msc3030": ("GET", "/org.matrix.msc3030/rooms/{roomId}/timestamp_to_event"),
    "org.matrix.msc3391": ("DELETE", "/org.matrix.msc3391/user/{userId}/account_data/{type}"),
    "org.lares.calls.history": ("GET", "/org.lares.calls/history"),
    "org.matrix.msc4140": ("GET", "/org.matrix.msc4140/delayed_events"),
    "org.matrix.msc4143": ("GET", "/org.matrix.msc4143/rtc/transports"),
    "org.matrix.msc4151": ("POST", "/org.matrix.msc4151/rooms/{roomId}/report"),
    "uk.half-shot.msc2666.query_mutual_rooms": ("GET", "/uk.half-shot.msc2666/user/mutual_rooms"),
    "uk.tcpip.msc4133": ("PUT", "/uk.tcpip.msc4133/profile/{userId}/{keyName}"),
    "uk.timedout.msc4323": ("GET", "/uk.timedout.msc4323/admin/suspend/{userId}"),
}
"""Feature → what it means a client may call, where it has a path of its own."""
WITHOUT_PATHS = {
    "com.beeper.msc4169",
    "io.element.e2ee_forced.private",
    "io.element.e2ee_forced.trusted_private",
    "org.matrix.msc3981",
    "org.matrix.msc4222",
}


def test_unstable_features_answer_at_their_unstable_paths(wire: Wire, world: World) -> None:
    """Some clients prefer those as long as the feature is advertised."""
    flags = wire.ok("GET", "/_matrix/client/versions")["unstable_features"]
    assert set(flags.values()) == {True}
    stable = {flag for flag in flags if ".stable" in flag}
    assert flags.keys() - stable == PROMISED.keys() | WITHOUT_PATHS
    for method, template in PROMISED.values():
        path = world.path(UNSTABLE + template)
        check_refusal(wire.call(method, path, None if method == "GET" else {}), 401, "M_MISSING_TOKEN")


def test_head_is_get_without_a_body(wire: Wire, world: World) -> None:
    for template in ("/_matrix/client/versions", f"{PREFIXES[1]}/joined_rooms"):
        got = wire.call("GET", template, token=world.me.token)
        head = wire.call("HEAD", template, token=world.me.token)
        assert (head.status, head.raw) == (200, b"")
        assert head.headers["content-length"] == str(len(got.raw))


def test_the_support_document(wire: Wire) -> None:
    """Served where the operator has given a contact."""
    contacts = wire.ok("GET", "/.well-known/matrix/support")["contacts"]
    assert contacts == [{"role": "m.role.admin", "email_address": "admin@example.org"}]
