# SPDX-License-Identifier: Apache-2.0
"""Asking one server after the other until one helps, and what a client is told when none did."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from federation.client.errors import RemoteError, RemoteFailure
from homeserver.errors import (
    Forbidden,
    IncompatibleRoomVersion,
    InviteBlocked,
    MatrixError,
    NotFound,
    RemoteServerFailed,
    UnableToAuthoriseJoin,
    UnableToGrantJoin,
)
from homeserver.protocol.identifiers import is_valid_server_name

logger = logging.getLogger(__name__)

MOST_SERVERS = 15
"""Asked for one thing; an address list a stranger gave must not keep us busy for long."""
MOST_REFUSALS = 3
"""Of servers that answer "forbidden": one may be out of date, three will hardly be."""

T = TypeVar("T")


def candidates(own: str, *lists: Iterable[str]) -> list[str]:
    """Servers to ask, in order, each once; not ourselves and nothing that is no server name."""
    ordered = dict.fromkeys(name for names in lists for name in names)
    return [name for name in ordered if name != own and is_valid_server_name(name)][:MOST_SERVERS]


async def first_to_help(
    what: str, servers: Sequence[str], ask: Callable[[str], Awaitable[T]], *, nobody: MatrixError
) -> T:
    """What the first server gives that gives anything. `ask` raises RemoteFailure, or a MatrixError that is its answer.

    Raises `nobody` if there are no servers, else the most telling of what they answered.
    """
    told: list[MatrixError] = []
    for server in servers:
        try:
            return await ask(server)
        except RemoteFailure as failure:
            logger.info("%s by way of %s failed: %s", what, server, failure)
            told.append(as_told(failure))
        except MatrixError as error:
            logger.info("%s by way of %s failed: %s", what, server, error)
            told.append(error)
        if sum(type(error) is Forbidden for error in told) >= MOST_REFUSALS:
            break
    if not told:
        raise nobody
    raise min(told, key=_rank)


def as_told(failure: RemoteFailure) -> MatrixError:
    """What a client is told of a server's failure."""
    if not isinstance(failure, RemoteError):
        return RemoteServerFailed(f"{failure.destination} could not be reached, or made no sense")
    message = failure.error[:500] or "refused"
    match failure.errcode:
        case "M_UNABLE_TO_AUTHORISE_JOIN":
            return UnableToAuthoriseJoin(message)
        case "M_UNABLE_TO_GRANT_JOIN":
            return UnableToGrantJoin(message)
        case "M_INCOMPATIBLE_ROOM_VERSION":
            named = failure.body.get("room_version") if isinstance(failure.body, dict) else None
            return IncompatibleRoomVersion(named[:255] if isinstance(named, str) else "unknown", message)
        case "M_INVITE_BLOCKED":
            return InviteBlocked(message)
        case "M_NOT_FOUND" if failure.status == 404:
            return NotFound(message)
        case "M_FORBIDDEN" if failure.status == 403:
            return Forbidden(message)
    return RemoteServerFailed(f"{failure.destination} answered: {message}")


_TELLING = (
    InviteBlocked,
    Forbidden,
    IncompatibleRoomVersion,
    UnableToGrantJoin,
    UnableToAuthoriseJoin,
    NotFound,
)


def _rank(error: MatrixError) -> int:
    """The lower, the more it says."""
    return next((rank for rank, kind in enumerate(_TELLING) if isinstance(error, kind)), len(_TELLING))
