# SPDX-License-Identifier: Apache-2.0
"""How often names may be changed."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.clientapi.profile import ProfileEndpoints
from homeserver.web.rate_limits import DEFAULTS
from homeserver.web.routing import Router


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
@pytest.mark.parametrize(
    ("field", "limit"), [("displayname", "profile"), ("avatar_url", "profile"), ("m.tz", None)]
)
def test_names_have_a_limit_of_their_own(method: str, field: str, limit: str | None) -> None:
    """Each change of one is an event in every room of the user."""
    profiles: Any = None
    router = Router(ProfileEndpoints(profiles=profiles, lookup=profiles).routes())
    for prefix in ("v3", "r0", "unstable/uk.tcpip.msc4133"):
        match = router.match(method, f"/_matrix/client/{prefix}/profile/@a:b/{field}".encode())
        assert match is not None and match.route.limit == limit
    assert limit is None or DEFAULTS[limit].per_second < 1
