# SPDX-License-Identifier: Apache-2.0
"""What refuses a request: who may call a route, and what an error tells the client.

Owns both decisions. When they are asked for, and how an answer is written, are `site`'s.
"""

from homeserver.errors import (
    Forbidden,
    GuestAccessForbidden,
    MatrixError,
    RefusedElsewhere,
    RemoteServerFailed,
    UiaRequired,
    Unknown,
    UserLocked,
    UserSuspended,
)
from homeserver.protocol.errors import ProtocolError
from homeserver.web.authentication import Requester
from homeserver.web.routing import Auth, Route
from homeserver.web.statuses import STATUSES


def refusal_of(route: Route, error: Exception) -> tuple[int, dict[str, object]] | None:
    """Status and error object of an error that is told to the client; None for a failure of ours."""
    if isinstance(error, UiaRequired):
        return 401, error.as_dict()
    fields: dict[str, object]
    if isinstance(error, MatrixError):
        fields = error.as_dict()
    elif isinstance(error, ProtocolError):
        fields = {"errcode": error.errcode, "error": str(error)}
    else:
        return None
    if error.errcode == "M_UNKNOWN" and not isinstance(error, Unknown):
        return None
    if isinstance(error, RemoteServerFailed):  # of all codes it has the one that says least
        return 502, fields
    if isinstance(error, RefusedElsewhere):
        return error.status, fields
    return route.statuses.get(error.errcode) or STATUSES.get(error.errcode, 400), fields


def check_policy(route: Route, requester: Requester) -> None:
    """Raise the refusal of a known user. See `Auth` and `Route`."""
    if requester.is_locked and not route.locked_ok:
        raise UserLocked
    if requester.is_suspended and not route.suspended_ok:
        raise UserSuspended
    if requester.is_guest and route.auth not in {Auth.GUEST_OK, Auth.OPTIONAL}:
        raise GuestAccessForbidden
    if route.auth is Auth.ADMIN and not requester.is_admin:
        raise Forbidden("You are not an administrator of this server")
    if route.auth is Auth.APPSERVICE and requester.appservice_id is None:
        raise Forbidden("Only application services may do that")
