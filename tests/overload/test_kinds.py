# SPDX-License-Identifier: Apache-2.0
"""What costs how much: every name is one of a real endpoint, and the examples everybody thinks of."""

import re

import pytest

from homeserver.web.kinds import NAMED, Kind, kind_of, waits
from homeserver.web.query import Query
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Route
from tests.api.endpoints import ENDPOINTS

FEDERATED = {("GET", "/hierarchy/{room_id}")}


async def _handler(_request: MatrixRequest) -> Reply:
    return {}


def test_every_name_is_an_endpoints() -> None:
    there = {(each.method, _nameless(path)) for each in ENDPOINTS for path in each.paths}
    for method, template in NAMED - FEDERATED:
        end = _nameless(template)
        assert any(m == method and path.endswith(end) for m, path in there), (method, template)


def _nameless(template: str) -> str:
    return re.sub(r"[{]\w+[}]", "{}", template)


@pytest.mark.parametrize(
    ("method", "template", "limit", "query", "kind"),
    [
        ("GET", "/account/whoami", None, b"", Kind.FREE),
        ("GET", "/_matrix/client/versions", "discovery", b"", Kind.FREE),
        ("PUT", "/rooms/{room_id}/send/{event_type}/{txn_id}", "messages", b"", Kind.ORDINARY),
        ("PUT", "/send/{txn_id}", "server_transactions", b"", Kind.ORDINARY),
        ("POST", "/keys/claim", None, b"", Kind.ORDINARY),
        ("POST", "/createRoom", "rooms", b"", Kind.HEAVY),
        ("POST", "/login", "login_address", b"", Kind.HEAVY),
        ("GET", "/rooms/{room_id}/messages", None, b"dir=b", Kind.HEAVY),
        ("GET", "/backfill/{room_id}", "server_history", b"", Kind.HEAVY),
        ("GET", "/room_keys/keys/{room_id}", None, b"version=1", Kind.HEAVY),
        ("PUT", "/room_keys/keys/{room_id}", None, b"version=1", Kind.HEAVY),
        ("GET", "/room_keys/keys/{room_id}/{session_id}", None, b"version=1", Kind.ORDINARY),
        ("GET", "/sync", "sync", b"timeout=0", Kind.HEAVY),
        ("GET", "/sync", "sync", b"timeout=0&since=s1_2", Kind.ORDINARY),
        ("GET", "/sync", "sync", b"since=s1_2&full_state=true", Kind.HEAVY),
        # As the sync reads them, so that nobody has the dear one counted as the cheap one.
        ("GET", "/sync", "sync", b"xsince=s1_2", Kind.HEAVY),
        ("GET", "/sync", "sync", b"since=", Kind.HEAVY),
        ("GET", "/sync", "sync", b"since=s1_2&full%5Fstate=tru%65", Kind.HEAVY),
        ("GET", "/sync", "sync", b"%73ince=s1_2", Kind.ORDINARY),
        ("GET", "/sync", "sync", b"since=s1_2&xfull_state=true", Kind.ORDINARY),
        ("GET", "/sync", "sync", b"since=%FF", Kind.ORDINARY),
    ],
)
def test_kinds(method: str, template: str, limit: str | None, query: bytes, kind: Kind) -> None:
    assert kind_of(Route(method, template, _handler, limit=limit), Query(query)) is kind


@pytest.mark.parametrize(
    ("template", "limit", "query", "expected"),
    [
        ("/sync", "sync", b"since=s1_2&timeout=30000", True),
        ("/sync", "sync", b"since=s1_2&timeout=0", False),
        ("/sync", "sync", b"since=s1_2", False),
        ("/sync", "sync", b"xsince=s1_2&timeout=30000", False),
        ("/sync", "sync", b"since=s1_2&xtimeout=30000", False),
        ("/sync", "sync", b"since=s1_2&timeout=00", False),
        ("/sync", "sync", b"since=s1_2&xtimeout=0&timeout=30000", True),
        ("/sync", "sync", b"since=s1_2&timeout=soon", False),
        ("/sync", "sync", b"timeout=30000", False),
        ("/sync", "sync", b"since=s1_2&timeout=30000&full_state=true", False),
        ("/rooms/{room_id}/messages", None, b"timeout=30000", False),
    ],
)
def test_long_polls_take_no_place(template: str, limit: str | None, query: bytes, expected: bool) -> None:
    assert waits(Route("GET", template, _handler, limit=limit), Query(query)) is expected
