# SPDX-License-Identifier: Apache-2.0
"""Profiles of other servers' users."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from homeserver.errors import Forbidden, MatrixError, NotFound, RemoteServerFailed
from homeserver.profiles.lookup import NoRemoteProfiles, ProfileLookup
from tests.federation.queries.world import US, V1, Asking
from tests.federation.servers import Received, Refused

HYDRA = "@hydra:hydra.test"
QUERY = V1 + "/query/profile"


class Own:
    """Profiles of ours."""

    async def get(self, user_id: str) -> dict[str, Any]:
        return {"displayname": user_id}


def lookup(asking: Asking) -> ProfileLookup:
    """What clients are answered by."""
    return ProfileLookup(server_name=US, own=Own(), remote=asking.profiles)  # type: ignore[arg-type]


async def test_a_profile_is_asked_of_its_server_and_kept_a_while() -> None:
    """Fields come out of the same answer; after five minutes it is asked again."""
    asking = Asking.build()
    shown = {"displayname": "Hydra", "avatar_url": "mxc://hydra.test/a", "m.tz": "Europe/Athens"}
    asking.hydra.on("GET", QUERY, lambda _request: shown)
    profiles = lookup(asking)
    assert await profiles.get(HYDRA) == shown
    assert await profiles.get_field(HYDRA, "m.tz") == "Europe/Athens"
    with pytest.raises(NotFound):
        await profiles.get_field(HYDRA, "org.example.heads")
    (request,) = asking.hydra.requests("GET", QUERY)
    assert request.query == {"user_id": [HYDRA]}
    asking.clock.now += 301
    shown["displayname"] = "Hercules"
    assert await profiles.get_field(HYDRA, "displayname") == "Hercules"


async def test_our_users_are_not_asked_for_elsewhere() -> None:
    """And without federation nobody is."""
    asking = Asking.build()
    assert await lookup(asking).get("@alice:localhost") == {"displayname": "@alice:localhost"}
    alone = ProfileLookup(server_name=US, own=Own(), remote=NoRemoteProfiles())  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        await alone.get(HYDRA)
    assert asking.hydra.received == []


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Refused(404, "M_NOT_FOUND"), NotFound),
        (Refused(403, "M_FORBIDDEN"), Forbidden),
        (Refused(500, "M_UNKNOWN"), RemoteServerFailed),
        (Refused(404, "M_UNRECOGNIZED"), RemoteServerFailed),
        (None, RemoteServerFailed),
    ],
)
async def test_failures_are_told_and_kept_a_shorter_while(
    refusal: Refused | None, kind: type[MatrixError]
) -> None:
    """A client that asks for a hundred users of a dead server costs few requests."""
    asking = Asking.build()
    asking.hydra.reachable = refusal is not None
    answers = 0

    def refuse(_request: Received) -> Any:
        nonlocal answers
        answers += 1
        assert refusal is not None
        raise refusal

    asking.hydra.on("GET", QUERY, refuse)
    for _ in range(3):
        with pytest.raises(kind) as raised:
            await lookup(asking).get(HYDRA)
        assert type(raised.value) is kind
    assert answers == (0 if refusal is None else 1)
    asking.clock.now += 61
    asking.hydra.reachable = True
    asking.hydra.on("GET", QUERY, lambda _request: {"displayname": "back"})
    assert await lookup(asking).get(HYDRA) == {"displayname": "back"}


async def test_one_question_for_all_who_ask() -> None:
    """And who gives up does not take the answer from the others."""
    asking = Asking.build()
    held: Deferred[None] = Deferred()

    async def hold(*_request: str) -> None:
        await held

    asking.network.before = hold
    asking.hydra.on("GET", QUERY, lambda _request: {"displayname": "Hydra"})
    first, second = (Deferred.fromCoroutine(asking.profiles.profile(HYDRA)) for _ in range(2))
    first.addErrback(lambda _failure: None)
    first.cancel()
    held.callback(None)
    assert await second == {"displayname": "Hydra"}
    assert len(asking.hydra.requests("GET", QUERY)) == 1


async def test_what_no_client_could_take_is_left_out() -> None:
    """Wrong types, numbers beyond 64 bits, names beyond all measure; null is not set."""
    asking = Asking.build()
    asking.hydra.on(
        "GET",
        QUERY,
        lambda _request: {
            "displayname": 5,
            "avatar_url": "https://hydra.test/spy.png",
            "m.tz": None,
            "org.example.number": 10**30,
            "org.example.large": "x" * 70_000,
            "k" * 300: "x",
            "": "x",
            "org.example.good": {"heads": 9},
        },
    )
    assert await asking.profiles.profile(HYDRA) == {"org.example.good": {"heads": 9}}


async def test_a_name_that_is_no_server_is_not_looked_for() -> None:
    """Nor is anything else asked for it."""
    asking = Asking.build()
    with pytest.raises(NotFound):
        await asking.profiles.profile("@a:not a server")
