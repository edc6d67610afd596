# SPDX-License-Identifier: Apache-2.0
"""Paths that name the user they belong to. Owns the rule that this is the one who asks."""

from homeserver.errors import Forbidden
from homeserver.web.request import MatrixRequest


def own_user_id(request: MatrixRequest) -> str:
    """`{user_id}` of the path. Raises Forbidden unless it is the requester."""
    user_id = request.requester.user_id
    if request.param("user_id") != user_id:
        raise Forbidden("The user in the path is not the one the access token belongs to")
    return user_id
