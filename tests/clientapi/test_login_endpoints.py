# SPDX-License-Identifier: Apache-2.0
"""Logging in and out, registering, devices and passwords over HTTP."""

import hashlib
import hmac
from dataclasses import replace
from typing import Any

import pytest

from homeserver.config.sections import Registration
from storage.database import Database
from tests.accounts.serving import PASSWORD, SECRET
from tests.clientapi.account_site import CONFIG, V3, AccountSite, account_site, password_auth

IDENTIFIER = {"type": "m.id.user", "user": "alice"}


async def test_from_registering_to_logging_out(site: AccountSite) -> None:
    """What every client does."""
    flows = await site.call("POST", "/register", {"username": "alice", "password": PASSWORD})
    assert flows.status == 401
    assert flows.json["flows"] == [{"stages": ["m.login.dummy"]}] and "errcode" not in flows.json
    auth = {"type": "m.login.dummy", "session": flows.json["session"]}
    made = (
        await site.call("POST", "/register", {"username": "alice", "password": PASSWORD, "auth": auth})
    ).json
    assert set(made) == {"user_id", "home_server", "access_token", "device_id"}
    who = await site.call("GET", "/account/whoami", token=made["access_token"])
    assert who.json == {"user_id": "@alice:example.org", "device_id": made["device_id"], "is_guest": False}
    assert (await site.call("POST", "/logout", token=made["access_token"])).json == {}
    gone = await site.call("GET", "/account/whoami", token=made["access_token"])
    assert (gone.status, gone.errcode, gone.json["soft_logout"]) == (401, "M_UNKNOWN_TOKEN", False)
    body = {"type": "m.login.password", "identifier": IDENTIFIER, "password": PASSWORD, "refresh_token": True}
    again = (await site.call("POST", "/login", body)).json
    assert again["expires_in_ms"] == 3_600_000
    assert again["well_known"] == {"m.homeserver": {"base_url": "https://matrix.example.org"}}
    refreshed = await site.call("POST", "/refresh", {"refresh_token": again["refresh_token"]})
    assert set(refreshed.json) == {"access_token", "refresh_token", "expires_in_ms"}
    assert (await site.call("POST", "/logout/all", token=refreshed.json["access_token"])).status == 200
    assert (await site.call("POST", "/refresh", {"refresh_token": "x"})).status == 401


async def test_log_in_flows(site: AccountSite) -> None:
    """Nothing is advertised that does not work."""
    flows = (await site.call("GET", "/login")).json["flows"]
    assert flows == [{"type": "m.login.password"}, {"type": "m.login.token", "get_login_token": True}]


@pytest.mark.parametrize("prefix", ["/_matrix/client/r0", "/_matrix/client/v3", "/_matrix/client/unstable"])
@pytest.mark.parametrize(
    "body", [{"identifier": IDENTIFIER}, {"user": "alice"}, {"user": "@alice:example.org"}]
)
async def test_old_and_new_forms_of_log_in(site: AccountSite, prefix: str, body: dict[str, Any]) -> None:
    """Clients of ten years."""
    await site.register("alice")
    answer = await site.call(
        "POST", prefix + "/login", {"type": "m.login.password", "password": PASSWORD, **body}
    )
    assert answer.status == 200


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ({}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.unheard"}, 400, "M_UNKNOWN"),
        ({"type": 7}, 400, "M_BAD_JSON"),
        ({"type": "m.login.password"}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "password": "x"}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "password": 1, "user": "alice"}, 400, "M_BAD_JSON"),
        ({"type": "m.login.password", "password": "x", "identifier": "alice"}, 400, "M_BAD_JSON"),
        ({"type": "m.login.password", "password": "x", "identifier": {"type": 1}}, 400, "M_UNKNOWN"),
        ({"type": "m.login.password", "password": "x", "user": "a\0b"}, 400, "M_BAD_JSON"),
        ({"type": "m.login.password", "password": "x", "user": "alice"}, 403, "M_FORBIDDEN"),
        (
            {"type": "m.login.password", "password": "x", "medium": "email", "address": "a@b"},
            403,
            "M_FORBIDDEN",
        ),
        ({"type": "m.login.token", "token": "x"}, 403, "M_FORBIDDEN"),
        ({"type": "m.login.token"}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.application_service", "identifier": IDENTIFIER}, 403, "M_FORBIDDEN"),
        (b"{", 400, "M_NOT_JSON"),
        (b"[]", 400, "M_BAD_JSON"),
    ],
)
async def test_bad_log_ins(site: AccountSite, body: object, status: int, errcode: str) -> None:
    """Each with the specification's error, and never a failure of ours."""
    answer = await site.call("POST", "/login", body)
    assert (answer.status, answer.errcode) == (status, errcode)


async def test_a_login_token_lets_another_client_in(site: AccountSite) -> None:
    """After the password was given again."""
    token = (await site.register("alice"))["access_token"]
    asked = await site.call("POST", "/_matrix/client/v1/login/get_token", {}, token=token)
    assert asked.status == 401 and asked.json["flows"] == [{"stages": ["m.login.password"]}]
    body = {"auth": password_auth("alice", asked.json["session"])}
    made = (await site.call("POST", "/_matrix/client/v1/login/get_token", body, token=token)).json
    assert made["expires_in_ms"] == 120_000
    other = await site.call("POST", "/login", {"type": "m.login.token", "token": made["login_token"]})
    assert other.json["user_id"] == "@alice:example.org"


async def test_an_expired_token_is_a_soft_log_out(site: AccountSite) -> None:
    """The client keeps its keys and refreshes."""
    made = await site.register("alice", refresh_token=True)
    site.clock.advance(3601)
    answer = await site.call("GET", "/devices", token=made["access_token"])
    assert (answer.status, answer.errcode, answer.json["soft_logout"]) == (401, "M_UNKNOWN_TOKEN", True)


async def test_guests_are_denied_by_default(site: AccountSite) -> None:
    """They may see to their own devices and nothing else of accounts."""
    guest = await site.call("POST", "/register", {"username": "ignored"}, query={"kind": "guest"})
    token = guest.json["access_token"]
    user_id = guest.json["user_id"]
    assert "ignored" not in user_id
    for method, path in (
        ("GET", "/account/whoami"),
        ("GET", "/devices"),
        ("GET", f"/devices/{guest.json['device_id']}"),
        ("PUT", f"/devices/{guest.json['device_id']}"),
    ):
        assert (await site.call(method, path, {} if method == "PUT" else None, token=token)).status == 200
    for method, path in (
        ("POST", "/account/password"),
        ("POST", "/account/deactivate"),
        ("GET", "/account/3pid"),
        ("DELETE", "/devices/X"),
        ("POST", "/delete_devices"),
        ("POST", "/login/get_token"),
        ("POST", f"/user/{user_id}/openid/request_token"),
        ("POST", f"/user/{user_id}/filter"),
        ("GET", f"/admin/whois/{user_id}"),
        ("GET", "/capabilities"),
    ):
        answer = await site.call(method, path, None if method == "GET" else {}, token=token)
        assert (answer.status, answer.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN"), path
    assert (await site.call("GET", "/account/whoami", token=token)).json["is_guest"] is True


async def test_guests_and_registration_can_be_off(database: Database) -> None:
    """As both are by default."""
    async with account_site(database, replace(CONFIG, registration=Registration())) as site:
        for query in ({}, {"kind": "guest"}):
            answer = await site.call("POST", "/register", {"username": "alice"}, query=query)
            assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
        answer = await site.call("GET", "/register/available", query={"username": "alice"})
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
        path = "/_matrix/client/v1/register/m.login.registration_token/validity"
        assert (await site.call("GET", path, query={"token": "x"})).status == 403


@pytest.mark.parametrize(
    ("path", "body", "query", "error"),
    [
        ("/register", {"username": "taken", "password": PASSWORD}, {}, (400, "M_USER_IN_USE")),
        ("/register", {"username": "b@d", "password": PASSWORD}, {}, (400, "M_INVALID_USERNAME")),
        ("/register", {"username": "alice", "password": "short"}, {}, (400, "M_WEAK_PASSWORD")),
        ("/register", {"username": 1}, {}, (400, "M_BAD_JSON")),
        ("/register", {}, {"kind": "king"}, (400, "M_INVALID_PARAM")),
        ("/register", {"type": "m.login.application_service", "username": "a"}, {}, (403, "M_FORBIDDEN")),
        ("/register", {"auth": "dummy"}, {}, (400, "M_BAD_JSON")),
        ("/register", {"auth": {"type": 1}}, {}, (400, "M_BAD_JSON")),
        ("/register", {"auth": {"type": "m.login.dummy", "session": 1}}, {}, (400, "M_BAD_JSON")),
        ("/register/email/requestToken", {}, {}, (403, "M_THREEPID_DENIED")),
        ("/register/msisdn/requestToken", {}, {}, (403, "M_THREEPID_DENIED")),
        ("/account/password/email/requestToken", {}, {}, (400, "M_THREEPID_NOT_FOUND")),
        ("/account/3pid/email/requestToken", {}, {}, (400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")),
    ],
)
async def test_bad_registrations(
    site: AccountSite, path: str, body: object, query: dict[str, str], error: tuple[int, str]
) -> None:
    """Names and passwords are judged before authentication is asked for."""
    await site.register("taken")
    answer = await site.call("POST", path, body, query=query)
    assert (answer.status, answer.errcode) == error


async def test_is_a_name_available(site: AccountSite) -> None:
    """Available, taken, impossible, unnamed."""
    await site.register("taken")
    answers = [
        await site.call("GET", "/register/available", query=query)
        for query in ({"username": "free"}, {"username": "taken"}, {"username": "b@d"}, {})
    ]
    assert answers[0].json == {"available": True}
    assert [answer.errcode for answer in answers[1:]] == [
        "M_USER_IN_USE",
        "M_INVALID_USERNAME",
        "M_MISSING_PARAM",
    ]


async def test_devices(site: AccountSite) -> None:
    """List, read, rename, delete behind the password, one and many."""
    made = await site.register("alice", device_id="ONE", initial_device_display_name="First")
    token = made["access_token"]
    login = {"type": "m.login.password", "identifier": IDENTIFIER, "password": PASSWORD}
    for device_id in ("TWO", "THR/EE", "FOUR"):
        await site.call("POST", "/login", {**login, "device_id": device_id})
    await site.accounts.sightings.flush()
    listed = (await site.call("GET", "/devices", token=token)).json["devices"]
    assert [device["device_id"] for device in listed] == ["FOUR", "ONE", "THR/EE", "TWO"]
    shown = (await site.call("GET", "/devices/ONE", token=token)).json
    assert shown["display_name"] == "First" and "last_seen_ts" not in shown
    assert (await site.call("PUT", "/devices/ONE", {"display_name": "Renamed"}, token=token)).json == {}
    await site.accounts.sightings.flush()
    shown = (await site.call("GET", "/devices/ONE", token=token)).json
    assert shown["display_name"] == "Renamed" and shown["last_seen_ip"] == "127.0.0.1"
    for method, body in (("GET", None), ("PUT", {"display_name": "x"}), ("PUT", {})):
        missing = await site.call(method, "/devices/NONE", body, token=token)
        assert (missing.status, missing.errcode) == (404, "M_NOT_FOUND")
    path = "/devices/THR%2FEE"
    asked = await site.call("DELETE", path, token=token)
    assert asked.status == 401
    one = {"auth": password_auth("alice", asked.json["session"])}
    assert (await site.call("DELETE", path, one, token=token)).status == 200
    many = {"devices": ["TWO", "FOUR", "NONE"], "auth": password_auth("alice")}
    assert (await site.call("POST", "/delete_devices", many, token=token)).status == 200
    listed = (await site.call("GET", "/devices", token=token)).json["devices"]
    assert [device["device_id"] for device in listed] == ["ONE"]


async def test_password_and_deactivation(site: AccountSite) -> None:
    """Both ask for the password; the reply to the latter names what there is to unbind."""
    token = (await site.register("alice"))["access_token"]
    new = {"new_password": "an even better password"}
    asked = await site.call("POST", "/account/password", new, token=token)
    assert asked.status == 401 and asked.json["params"] == {}
    weak = await site.call("POST", "/account/password", {"new_password": "x"}, token=token)
    assert (weak.status, weak.errcode) == (400, "M_WEAK_PASSWORD")
    changed = {**new, "auth": password_auth("alice", asked.json["session"])}
    assert (await site.call("POST", "/account/password", changed, token=token)).json == {}
    auth = {**password_auth("alice"), "password": "an even better password"}
    closed = await site.call("POST", "/account/deactivate", {"auth": auth, "erase": True}, token=token)
    assert closed.json == {"id_server_unbind_result": "success"}
    assert site.comings.departed == [("@alice:example.org", True)]
    assert (await site.call("GET", "/account/whoami", token=token)).errcode == "M_UNKNOWN_TOKEN"
    assert (await site.call("POST", "/account/password", new)).errcode == "M_MISSING_TOKEN"


async def test_third_party_identifiers_are_truthfully_absent(site: AccountSite) -> None:
    """None are bound, none can be, and removing nothing succeeds."""
    token = (await site.register("alice"))["access_token"]
    assert (await site.call("GET", "/account/3pid", token=token)).json == {"threepids": []}
    for path in ("/account/3pid", "/account/3pid/add", "/account/3pid/bind"):
        answer = await site.call("POST", path, {}, token=token)
        assert (answer.status, answer.errcode) == (403, "M_THREEPID_DENIED")
    removed = await site.call("POST", "/account/3pid/delete", {}, token=token)
    assert removed.json == {"id_server_unbind_result": "success"}


async def test_log_ins_are_limited_by_address_account_and_failure(database: Database) -> None:
    """Three brakes, each with the time to wait."""
    body = {"type": "m.login.password", "identifier": IDENTIFIER, "password": "wrong password"}
    async with account_site(database, limited=True) as site:
        await site.register("alice")
        statuses = [(await site.call("POST", "/login", body)).status for _ in range(6)]
        assert statuses == [403] * 5 + [429]
        right = await site.call("POST", "/login", {**body, "password": PASSWORD})
        assert (right.status, right.errcode) == (429, "M_LIMIT_EXCEEDED")
        assert int(right.headers["retry-after"]) * 1000 >= right.json["retry_after_ms"] > 0
        others = [
            (await site.call("POST", "/login", {"type": "m.login.token", "token": "x"})).status
            for _ in range(4)
        ]
        assert others == [403] * 3 + [429]  # the address has had its ten
        site.seconds = 3600.0
        assert (await site.call("POST", "/login", {**body, "password": PASSWORD})).status == 200


async def test_registrations_are_limited_by_address(database: Database) -> None:
    """Asking for the flows is not what is counted so strictly."""
    async with account_site(database, limited=True) as site:
        for number in range(5):
            site.seconds += 1
            await site.register(f"user{number}")
        site.seconds += 1
        body = {"username": "onemore", "password": PASSWORD}
        assert (await site.call("POST", "/register", body)).status == 401
        site.seconds += 1
        limited = await site.call("POST", "/register", {**body, "auth": {"type": "m.login.dummy"}})
        assert limited.status == 429


async def test_the_tools_register_by_shared_secret(site: AccountSite) -> None:
    """As the ecosystem's scripts do it."""
    path = "/_synapse/admin/v1/register"
    nonce = (await site.call("GET", path)).json["nonce"]
    fields = (nonce, "alice", "pw", "notadmin")
    mac = hmac.new(SECRET.encode(), "\0".join(fields).encode(), hashlib.sha1).hexdigest()
    body = {"nonce": nonce, "username": "alice", "password": "pw", "admin": False, "mac": mac}
    made = await site.call("POST", path, body)
    assert set(made.json) == {"user_id", "home_server", "access_token", "device_id"}
    again = await site.call("POST", path, body)
    assert (again.status, again.errcode) == (400, "M_UNKNOWN")
    nonce = (await site.call("GET", path)).json["nonce"]
    wrong = await site.call("POST", path, {**body, "nonce": nonce})
    assert (wrong.status, wrong.errcode) == (403, "M_FORBIDDEN")
    assert (await site.call("POST", path, {"nonce": nonce})).errcode == "M_BAD_JSON"


async def test_secrets_stay_out_of_the_access_log(site: AccountSite) -> None:
    """Also those that clients put into the query."""
    token = (await site.register("alice"))["access_token"]
    assert (await site.call("GET", "/account/whoami", query={"access_token": token})).status == 200
    assert "whoami" in site.access_log.getvalue()
    assert token not in site.access_log.getvalue() and PASSWORD not in site.access_log.getvalue()
    assert V3 in site.access_log.getvalue()
