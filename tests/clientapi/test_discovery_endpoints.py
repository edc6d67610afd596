# SPDX-License-Identifier: Apache-2.0
"""Versions, well-known documents, capabilities, filters, OpenID and administration over HTTP."""

from dataclasses import replace
from typing import Any, Literal, get_args

import pytest

from homeserver.clientapi.create_room import forced_encryption
from homeserver.config.sections import Contact, Federation, Rooms, WellKnown
from homeserver.rooms.creation.wishes import EncryptedByDefault
from storage.database import Database
from tests.accounts.serving import PASSWORD
from tests.clientapi.account_site import CONFIG, AccountSite, account_site


async def test_every_version_is_listed(site: AccountSite) -> None:
    """Clients look for exact names, and parse features as booleans."""
    answer = (await site.call("GET", "/_matrix/client/versions")).json
    assert answer["versions"][:8] == [
        "r0.0.1",
        "r0.1.0",
        "r0.2.0",
        "r0.3.0",
        "r0.4.0",
        "r0.5.0",
        "r0.6.0",
        "r0.6.1",
    ]
    assert answer["versions"][8:] == [f"v1.{minor}" for minor in range(1, 20)]
    assert answer["unstable_features"] == {"org.example.works": True, "uk.timedout.msc4323": True}


async def test_software_version(site: AccountSite) -> None:
    """For people and tools."""
    version = (await site.call("GET", "/_matrix/federation/v1/version")).json["server"]
    assert version["name"] == "Lares"
    shown = (await site.call("GET", "/_synapse/admin/v1/server_version")).json
    assert shown == {"server_version": f"Lares {version['version']}"}


async def test_well_known_documents(database: Database) -> None:
    """As configured; the operator's keys go along and win, but cannot point clients elsewhere."""
    well_known = WellKnown(
        client={"io.element.e2ee": {"default": False}, "m.homeserver": {"base_url": "https://evil.example"}},
        contacts=(Contact(role="m.role.admin", matrix_id="@a:example.org"),),
        support_page="https://example.org/help",
    )
    async with account_site(database, replace(CONFIG, well_known=well_known)) as site:
        client = await site.call("GET", "/.well-known/matrix/client")
        assert client.json == {
            "io.element.e2ee": {"default": False},
            "m.homeserver": {"base_url": "https://matrix.example.org"},
        }
        assert client.headers["access-control-allow-origin"] == "*"
        server = await site.call("GET", "/.well-known/matrix/server")
        assert server.json == {"m.server": "matrix.example.org:443"}
        assert (await site.call("GET", "/.well-known/matrix/support")).json == {
            "contacts": [{"role": "m.role.admin", "matrix_id": "@a:example.org"}],
            "support_page": "https://example.org/help",
        }


@pytest.mark.parametrize("by_default", ["private", "all", "off"])
async def test_clients_are_told_whether_rooms_are_encrypted(
    database: Database, by_default: Literal["private", "all", "off"]
) -> None:
    """So that they do likewise."""
    config = replace(CONFIG, rooms=Rooms(encrypted_by_default=by_default))
    async with account_site(database, config) as site:
        client = (await site.call("GET", "/.well-known/matrix/client")).json
    assert client["io.element.e2ee"] == {"default": by_default != "off"}


def test_dialogs_are_told_what_is_encrypted_anyway() -> None:
    """By preset, as flags."""
    names = {
        by_default: {flag.removeprefix("io.element.e2ee_forced.") for flag in forced_encryption(by_default)}
        for by_default in get_args(EncryptedByDefault)
    }
    assert names == {
        "private": {"private", "trusted_private"},
        "all": {"private", "trusted_private", "public"},
        "off": set(),
    }


async def test_documents_with_nothing_to_say(database: Database) -> None:
    """Are not there."""
    async with account_site(database, replace(CONFIG, federation=Federation(enabled=False))) as site:
        for name in ("server", "support"):
            answer = await site.call("GET", f"/.well-known/matrix/{name}")
            assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")


async def test_capabilities(site: AccountSite) -> None:
    """Administrators see what they may do to others."""
    token = (await site.register("alice"))["access_token"]
    shown = (await site.call("GET", "/capabilities", token=token)).json["capabilities"]
    available = {str(number): "stable" for number in range(1, 13)}
    assert shown["m.room_versions"] == {"default": "12", "available": available}
    assert shown["m.change_password"] == {"enabled": True}
    assert shown["m.3pid_changes"] == {"enabled": False}
    assert "m.account_moderation" not in shown
    admin = await site.admin("root")
    shown = (await site.call("GET", "/capabilities", token=admin)).json["capabilities"]
    assert shown["m.account_moderation"] == {"lock": True, "suspend": True}


async def test_filters(site: AccountSite) -> None:
    """What was uploaded comes back; only one's own."""
    made = await site.register("alice")
    token, path = made["access_token"], f"/user/{made['user_id']}/filter"
    definition = {"room": {"timeline": {"limit": 5, "types": ["m.room.*"]}}, "org.example.new": [1, 2.5]}
    filter_id = (await site.call("POST", path, definition, token=token)).json["filter_id"]
    assert (await site.call("GET", f"{path}/{filter_id}", token=token)).json == definition
    assert (await site.call("GET", f"{path}/none", token=token)).errcode == "M_NOT_FOUND"
    bad: list[object] = [{"room": []}, {"event_format": "other"}, {"presence": {"limit": -1}}, b"[]"]
    for body in bad:
        answer = await site.call("POST", path, body, token=token)
        assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")
    other = await site.call("POST", "/user/@bob:example.org/filter", {}, token=token)
    assert (other.status, other.errcode) == (403, "M_FORBIDDEN")


async def test_openid(site: AccountSite) -> None:
    """A third party learns who, from the federation path on the client's port."""
    made = await site.register("alice")
    token, path = made["access_token"], "/user/{}/openid/request_token"
    openid = (await site.call("POST", path.format(made["user_id"]), {}, token=token)).json
    assert (openid["token_type"], openid["matrix_server_name"], openid["expires_in"]) == (
        "Bearer",
        "example.org",
        3600,
    )
    userinfo = "/_matrix/federation/v1/openid/userinfo"
    redeemed = await site.call("GET", userinfo, query={"access_token": openid["access_token"]})
    assert redeemed.json == {"sub": "@alice:example.org"}
    unknown = await site.call("GET", userinfo, query={"access_token": token})
    assert (unknown.status, unknown.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert (await site.call("GET", userinfo)).status == 401
    assert (await site.call("POST", path.format("@bob:example.org"), {}, token=token)).status == 403


@pytest.mark.parametrize("prefix", ["/_matrix/client/v1", "/_matrix/client/unstable/uk.timedout.msc4323"])
async def test_a_locked_user_can_only_log_out(site: AccountSite, prefix: str) -> None:
    """And is let in again as if nothing had been."""
    admin, made = await site.admin("root"), await site.register("bob")
    token, path = made["access_token"], f"{prefix}/admin/lock/{made['user_id']}"
    assert (await site.call("PUT", path, {"locked": True}, token=admin)).json == {"locked": True}
    locked = await site.call("GET", "/account/whoami", token=token)
    assert (locked.status, locked.errcode, locked.json["soft_logout"]) == (401, "M_USER_LOCKED", True)
    body = {"type": "m.login.password", "user": "bob", "password": PASSWORD}
    assert (await site.call("POST", "/login", body)).errcode == "M_USER_LOCKED"
    assert (await site.call("PUT", path, {"locked": False}, token=admin)).json == {"locked": False}
    assert (await site.call("GET", path, token=admin)).json == {"locked": False}
    assert (await site.call("GET", "/account/whoami", token=token)).status == 200
    await site.call("PUT", path, {"locked": True}, token=admin)
    assert (await site.call("POST", "/logout", token=token)).status == 200


async def test_administration(site: AccountSite) -> None:
    """Suspending, whois, and the ecosystem's paths; refused to everybody else."""
    admin, made = await site.admin("root"), await site.register("bob", device_id="PHONE")
    await site.call("GET", "/account/whoami", token=made["access_token"])
    await site.accounts.sightings.flush()
    bob = made["user_id"]
    suspend = f"/_matrix/client/v1/admin/suspend/{bob}"
    assert (await site.call("PUT", suspend, {"suspended": True}, token=admin)).json == {"suspended": True}
    assert (await site.call("GET", suspend, token=admin)).json == {"suspended": True}
    assert (await site.call("GET", "/account/whoami", token=made["access_token"])).status == 200
    whois = (await site.call("GET", f"/admin/whois/{bob}", token=admin)).json
    connection = whois["devices"]["PHONE"]["sessions"][0]["connections"][0]
    assert (whois["user_id"], connection["ip"]) == (bob, "127.0.0.1")
    path = f"/_synapse/admin/v1/users/{bob}/admin"
    assert (await site.call("GET", path, token=admin)).json == {"admin": False}
    assert (await site.call("PUT", path, {"admin": True}, token=admin)).json == {}
    assert (await site.call("GET", path, token=made["access_token"])).json == {"admin": True}
    await site.call("PUT", path, {"admin": False}, token=admin)
    available = "/_synapse/admin/v1/username_available"
    assert (await site.call("GET", available, token=admin, query={"username": "x"})).json == {
        "available": True
    }
    requests: list[tuple[str, str, Any]] = [
        ("GET", path, None),
        ("PUT", path, {"admin": True}),
        ("GET", available, None),
        ("GET", suspend, None),
        ("PUT", suspend, {"suspended": False}),
        ("GET", "/admin/whois/@root:example.org", None),
    ]
    for method, each, body in requests:
        answer = await site.call(method, each, body, token=made["access_token"])
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN"), each
