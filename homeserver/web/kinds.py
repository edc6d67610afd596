# SPDX-License-Identifier: Apache-2.0
"""What a request costs, as far as its route and its query tell: what goes on longest under overload, and what is put
off first.

Owns that division and nothing else. Free is what answers from memory and what others decide by whether the server is
there at all; heavy is what reads or writes much at once, or hashes passwords; the rest is ordinary, sends among them.
"""

from enum import Enum, auto
from typing import Final

from homeserver.errors import InvalidParam
from homeserver.web.query import Query
from homeserver.web.routing import Route


class Kind(Enum):
    """In the order in which they are put off, the last first."""

    FREE = auto()
    ORDINARY = auto()
    HEAVY = auto()


_FREE_LIMITS: Final = frozenset({"discovery"})
_FREE: Final = frozenset(
    {
        ("GET", "/account/whoami"),
        ("GET", "/capabilities"),
        ("POST", "/logout"),
        ("POST", "/logout/all"),
    }
)
_HEAVY_LIMITS: Final = frozenset(
    {
        "rooms",
        "joins",
        "searches",
        "registration",
        "registration_checks",
        "login_address",
        "password",
        "uploads",
        "thumbnails",
        "key_queries",
        "server_history",
        "server_joins",
    }
)
_HEAVY: Final = frozenset(
    {
        ("GET", "/events"),
        ("GET", "/initialSync"),
        ("GET", "/rooms/{room_id}/initialSync"),
        ("GET", "/rooms/{room_id}/messages"),
        ("GET", "/rooms/{room_id}/context/{event_id}"),
        ("GET", "/rooms/{room_id}/timestamp_to_event"),
        ("GET", "/rooms/{room_id}/state"),
        ("GET", "/rooms/{room_id}/members"),
        ("GET", "/rooms/{room_id}/joined_members"),
        ("GET", "/rooms/{room_id}/threads"),
        ("GET", "/rooms/{room_id}/hierarchy"),
        ("GET", "/rooms/{room_id}/relations/{event_id}"),
        ("GET", "/rooms/{room_id}/relations/{event_id}/{rel_type}"),
        ("GET", "/rooms/{room_id}/relations/{event_id}/{rel_type}/{event_type}"),
        ("GET", "/room_keys/keys"),
        ("PUT", "/room_keys/keys"),
        ("DELETE", "/room_keys/keys"),
        ("GET", "/room_keys/keys/{room_id}"),
        ("PUT", "/room_keys/keys/{room_id}"),
        ("DELETE", "/room_keys/keys/{room_id}"),
        ("DELETE", "/room_keys/version/{version}"),
        ("GET", "/hierarchy/{room_id}"),
        ("GET", "/publicRooms"),
        ("POST", "/publicRooms"),
    }
)
NAMED: Final = _FREE | _HEAVY
"""Method and template of every route named here."""
_SYNC_LIMIT: Final = "sync"
_EVENTS: Final = ("GET", "/events")
"""Which under overload takes a place all the same: it reads much when it comes first."""


def kind_of(route: Route, query: Query) -> Kind:
    """What a request to the route costs."""
    limit = route.limit
    if limit == _SYNC_LIMIT:
        return Kind.HEAVY if _asks_for_all(query) else Kind.ORDINARY
    name = (route.method, route.template)
    if limit in _FREE_LIMITS or name in _FREE:
        return Kind.FREE
    return Kind.HEAVY if limit in _HEAVY_LIMITS or name in _HEAVY else Kind.ORDINARY


def waits(route: Route, query: Query) -> bool:
    """Whether most of the time between the request and its answer is spent waiting for news."""
    if route.limit != _SYNC_LIMIT:
        return False
    if route.template != "/sync":
        return True
    try:
        return not _asks_for_all(query) and query.integer("timeout", 0) > 0
    except InvalidParam:
        return False


def is_long_poll(route: Route, query: Query) -> bool:
    """Whether the answer comes when there is news."""
    return (route.method, route.template) == _EVENTS or waits(route, query)


def _asks_for_all(query: Query) -> bool:
    """Whether a sync is answered at once, and at length, however long it may wait."""
    try:
        return not query.string("since") or query.boolean("full_state")
    except InvalidParam:  # which is all that will be answered
        return False
