# SPDX-License-Identifier: Apache-2.0
"""`/pushrules` over HTTP: what clients send and get, and the errors of what they should not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from homeserver.clientapi.push_rules import PushRuleEndpoints
from homeserver.protocol.push_rules import NO_RULES
from storage.database import Database
from tests.push_rules.rules_fixture import Process
from tests.web.loopback import ALICE, Answer, Loopback

GLOBAL = "/_matrix/client/v3/pushrules/global"


class Client:
    """Alice, with a server of nothing but these endpoints."""

    def __init__(self, process: Process) -> None:
        self._server = Loopback(PushRuleEndpoints(process.push_rules).routes())

    async def request(self, method: str, path: str, body: object = None) -> Answer:
        connection = await self._server.connect()
        encoded = None if body is None else json.dumps(body).encode()
        return await connection.request(method, path, body=encoded, token="alice")

    async def ok(self, method: str, path: str, body: object = None) -> Any:
        answer = await self.request(method, path, body)
        assert answer.status == 200, answer.raw
        return answer.json

    async def stop(self) -> None:
        await self._server.stop()


async def test_the_rules_are_got_put_changed_and_deleted(database: Database) -> None:
    """The life of a rule, each step through its endpoint."""
    client = Client(await Process.open(database))
    everything = NO_RULES.content(ALICE.user_id)
    assert await client.ok("GET", "/_matrix/client/v3/pushrules/") == everything
    assert await client.ok("GET", "/_matrix/client/r0/pushrules") == everything
    assert await client.ok("GET", f"{GLOBAL}/") == everything["global"]
    account_data = "/_matrix/client/v3/user/{}/account_data/m.push_rules"
    assert await client.ok("GET", account_data.format(ALICE.user_id)) == everything
    assert (await client.request("GET", account_data.format("@other:test"))).errcode == "M_FORBIDDEN"

    path = f"{GLOBAL}/content/cake"
    rule = {"pattern": "cake*lie", "actions": ["notify", "coalesce", {"set_tweak": "sound", "value": "bing"}]}
    assert await client.ok("PUT", path, rule) == {}
    kept = ["notify", {"set_tweak": "sound", "value": "bing"}]
    shown: dict[str, Any] = {
        "rule_id": "cake",
        "default": False,
        "enabled": True,
        "actions": kept,
        "pattern": "cake*lie",
    }
    assert await client.ok("GET", path) == shown
    assert await client.ok("GET", f"{path}/actions") == {"actions": kept}
    assert await client.ok("GET", f"{path}/enabled") == {"enabled": True}
    assert await client.ok("PUT", f"{path}/enabled", {"enabled": False}) == {}
    assert await client.ok("PUT", f"{path}/actions", {"actions": ["dont_notify"]}) == {}
    assert await client.ok("GET", path) == {**shown, "enabled": False, "actions": []}
    assert (await client.ok("GET", f"{GLOBAL}/"))["content"] == [await client.ok("GET", path)]
    assert await client.ok("DELETE", path) == {}
    assert (await client.request("GET", path)).errcode == "M_NOT_FOUND"
    await client.stop()


async def test_ids_and_places_are_read_from_paths_and_queries(database: Database) -> None:
    """Encoded room ids; `before` and `after`; default rules can be switched."""
    client = Client(await Process.open(database))
    room_id = quote("!dj234r78wl45Gh4D:matrix.org", safe="")
    await client.ok("PUT", f"{GLOBAL}/room/{room_id}", {"actions": []})
    assert (await client.ok("GET", f"{GLOBAL}/room/{room_id}"))["rule_id"] == "!dj234r78wl45Gh4D:matrix.org"
    conditions = [{"kind": "room_member_count", "is": "<=10"}]
    for rule_id, query in (("a", ""), ("b", "?after=a"), ("c", "?before=b")):
        body = {"actions": ["notify"], "conditions": conditions}
        await client.ok("PUT", f"{GLOBAL}/underride/{rule_id}{query}", body)
    underride = (await client.ok("GET", f"{GLOBAL}/"))["underride"]
    assert [rule["rule_id"] for rule in underride[:4]] == ["a", "c", "b", ".m.rule.call"]
    assert underride[0]["conditions"] == conditions
    await client.ok("PUT", f"{GLOBAL}/override/.m.rule.master/enabled", {"enabled": True})
    await client.ok("PUT", f"{GLOBAL}/underride/.m.rule.call/actions", {"actions": []})
    master = await client.ok("GET", f"{GLOBAL}/override/.m.rule.master")
    assert (master["enabled"], master["default"]) == (True, True)
    assert await client.ok("GET", f"{GLOBAL}/underride/.m.rule.call/actions") == {"actions": []}
    await client.stop()


NOTIFY: Mapping[str, Any] = {"actions": ["notify"]}
UNKNOWN = f"{GLOBAL}/room/unknown"


ERRORS: tuple[tuple[str, str, object, int, str], ...] = (
    ("GET", UNKNOWN, None, 404, "M_NOT_FOUND"),
    ("DELETE", UNKNOWN, None, 404, "M_NOT_FOUND"),
    ("GET", f"{UNKNOWN}/enabled", None, 404, "M_NOT_FOUND"),
    ("PUT", f"{UNKNOWN}/enabled", {"enabled": True}, 404, "M_NOT_FOUND"),
    ("GET", f"{UNKNOWN}/actions", None, 404, "M_NOT_FOUND"),
    ("PUT", f"{UNKNOWN}/actions", NOTIFY, 404, "M_NOT_FOUND"),
    ("DELETE", f"{GLOBAL}/underride/.m.rule.message", None, 404, "M_NOT_FOUND"),
    ("GET", f"{GLOBAL}/nonsense/x", None, 400, "M_INVALID_PARAM"),
    ("PUT", f"{GLOBAL}/nonsense/x", NOTIFY, 400, "M_INVALID_PARAM"),
    ("GET", "/_matrix/client/v3/pushrules/device/", None, 400, "M_INVALID_PARAM"),
    ("GET", "/_matrix/client/v3/pushrules/device/room/x", None, 400, "M_INVALID_PARAM"),
    ("PUT", f"{GLOBAL}/room/.x", NOTIFY, 400, "M_INVALID_PARAM"),
    ("PUT", f"{GLOBAL}/room/a%2Fb", NOTIFY, 400, "M_INVALID_PARAM"),
    ("PUT", f"{GLOBAL}/room/a%5Cb", NOTIFY, 400, "M_INVALID_PARAM"),
    ("PUT", f"{GLOBAL}/room/x?before=y", NOTIFY, 400, "M_UNKNOWN"),
    ("PUT", f"{GLOBAL}/room/x?after=.m.rule.message", NOTIFY, 400, "M_UNKNOWN"),
    ("PUT", f"{GLOBAL}/room/x", {}, 400, "M_BAD_JSON"),
    ("PUT", f"{GLOBAL}/room/x", {"actions": "notify"}, 400, "M_BAD_JSON"),
    ("PUT", f"{GLOBAL}/room/x", {"actions": ["wave"]}, 400, "M_BAD_JSON"),
    ("PUT", f"{GLOBAL}/room/x", {"actions": [7]}, 400, "M_BAD_JSON"),
    ("PUT", f"{GLOBAL}/room/x", {"actions": [{"tweak": 1}]}, 400, "M_BAD_JSON"),
    ("PUT", f"{GLOBAL}/content/x", NOTIFY, 400, "M_MISSING_PARAM"),
    ("PUT", f"{GLOBAL}/content/x", {**NOTIFY, "pattern": 7}, 400, "M_BAD_JSON"),
    ("PUT", f"{GLOBAL}/override/x", {**NOTIFY, "conditions": [7]}, 400, "M_BAD_JSON"),
    ("PUT", f"{GLOBAL}/override/x", {**NOTIFY, "conditions": [{}]}, 400, "M_BAD_JSON"),
    ("PUT", f"{GLOBAL}/override/.m.rule.master/enabled", {"enabled": 1}, 400, "M_BAD_JSON"),
    ("PUT", f"{GLOBAL}/override/.m.rule.master/enabled", {}, 400, "M_BAD_JSON"),
    ("POST", f"{GLOBAL}/room/x", NOTIFY, 405, "M_UNRECOGNIZED"),
    ("GET", f"{GLOBAL}/room/x/nonsense", None, 404, "M_UNRECOGNIZED"),
)


async def test_errors(database: Database) -> None:
    """The specification's errors, and nothing comes of such requests."""
    client = Client(await Process.open(database))
    answers = [await client.request(method, path, body) for method, path, body, _, _ in ERRORS]
    told = [(answer.status, answer.errcode) for answer in answers]
    assert told == [(status, errcode) for _, _, _, status, errcode in ERRORS]
    assert await client.ok("GET", "/_matrix/client/v3/pushrules/") == NO_RULES.content(ALICE.user_id)
    await client.stop()
