# SPDX-License-Identifier: Apache-2.0
"""Who is in a room gets into its calls, under their own name; nobody else does, and nobody under another's."""

from __future__ import annotations

from typing import Any

import jwt
import pytest

from homeserver.calls.rtc.naming import livekit_identity, livekit_room
from homeserver.clientapi.rtc import SERVICE_PATH
from storage.database import Database
from tests.calls.rtc.call_site import (
    EVE,
    FRIENDS,
    KEY,
    NOT_NOW,
    OURS,
    SECRET,
    SLOT,
    START,
    THEIRS,
    URL,
    CallSite,
    call_site,
)
from tests.rooms.engine_fixture import ALICE, BOB, member
from tests.web.loopback import Answer


def claims(answer: Answer) -> Any:
    """What LiveKit reads in the token of an answer."""
    assert answer.status == 200, answer.raw
    assert answer.json["url"] == URL
    assert answer.headers["access-control-allow-origin"] == "*"
    return jwt.decode(answer.json["jwt"], SECRET, algorithms=["HS256"], issuer=KEY, options=NOT_NOW)


def refused(answer: Answer) -> tuple[int, str]:
    """Status and code."""
    return answer.status, answer.errcode


async def expel(site: CallSite, room_id: str, user_id: str, membership: str = "ban") -> None:
    """By alice."""
    await site.engine.engine.write(
        room_id, lambda _head: [member(user_id, membership, ALICE)], users=(ALICE, user_id)
    )


async def test_both_forms_open_the_same_call(database: Database) -> None:
    """The LiveKit room is made, and the token is for it, for an hour, under the name of each form."""
    async with call_site(database) as site:
        room_id = (await site.engine.new_room()).room_id
        room = livekit_room(room_id, SLOT)
        newer = claims(await site.by_member(room_id, await site.proof(ALICE)))
        older = claims(await site.by_device(room_id, await site.proof(ALICE)))
        grants = {
            "roomJoin": True,
            "room": room,
            "canPublish": True,
            "canSubscribe": True,
            "canUpdateOwnMetadata": True,
        }
        common = {"iss": KEY, "nbf": START, "exp": START + 3600, "video": grants}
        assert newer == {**common, "sub": livekit_identity(ALICE, "DEV", "member")}
        assert older == {**common, "sub": f"{ALICE}:DEV"}
        assert site.livekit.rooms == {room: {"name": room, "empty_timeout": 300, "departure_timeout": 20}}


async def test_another_servers_user_joins_and_does_not_begin(database: Database) -> None:
    """Proven by that server's own endpoint; the LiveKit room is left to those of this server, and its friends'."""
    async with call_site(database) as site:
        room_id = (await site.engine.new_room()).room_id
        await site.engine.join(room_id, EVE)
        answer = await site.by_member(room_id, await site.proof(EVE, THEIRS), EVE)
        assert claims(answer)["sub"] == livekit_identity(EVE, "DEV", "member")
        assert site.wire.asked == [THEIRS]
        assert site.livekit.rooms == {}

        friend = f"@f:{FRIENDS}"
        claims(await site.by_member("!theirs:friends.test", await site.proof(friend, FRIENDS), friend))
        assert list(site.livekit.rooms) == [livekit_room("!theirs:friends.test", SLOT)]


async def test_only_members_get_in(database: Database) -> None:
    """Strangers, who was banned, who left, and friends' users who are not in a room that can be looked at."""
    async with call_site(database) as site:
        room_id = (await site.engine.new_room()).room_id
        proof = await site.proof(BOB)
        assert refused(await site.by_device(room_id, proof)) == (403, "M_FORBIDDEN")
        assert refused(await site.by_device("!nowhere:localhost", proof)) == (403, "M_FORBIDDEN")
        await site.engine.join(room_id, BOB, EVE)
        claims(await site.by_device(room_id, proof))
        await expel(site, room_id, BOB)
        assert refused(await site.by_device(room_id, proof)) == (403, "M_FORBIDDEN")
        friend = await site.proof(f"@f:{FRIENDS}", FRIENDS)
        assert refused(await site.by_device(room_id, friend)) == (403, "M_FORBIDDEN")


async def test_nobody_makes_this_server_ask_around(database: Database) -> None:
    """A server without anybody in the room is not asked, whoever presents its token; nor one the room shuts out."""
    async with call_site(database) as site:
        room_id = (await site.engine.new_room()).room_id
        proof = await site.proof(EVE, THEIRS)
        assert refused(await site.by_device(room_id, proof)) == (403, "M_FORBIDDEN")
        assert refused(await site.by_device("!nowhere:localhost", proof)) == (403, "M_FORBIDDEN")
        await site.engine.join(room_id, EVE)
        claims(await site.by_device(room_id, proof))
        await expel(site, room_id, EVE, "leave")
        assert refused(await site.by_device(room_id, proof)) == (403, "M_FORBIDDEN")
        assert site.wire.asked == [THEIRS]


async def test_tokens_that_prove_nothing(database: Database) -> None:
    """Made up, run out, of another server than they say, or of another user than is claimed."""
    async with call_site(database) as site:
        room_id = (await site.engine.new_room()).room_id
        await site.engine.join(room_id, BOB, EVE)
        unauthorized = (401, "M_UNAUTHORIZED")
        made_up = {"access_token": "syt_none", "matrix_server_name": OURS}
        assert refused(await site.by_device(room_id, made_up)) == unauthorized
        elsewhere = {"access_token": "syt_none", "matrix_server_name": THEIRS}
        assert refused(await site.by_device(room_id, elsewhere)) == unauthorized
        # Their server says that its token is alice's, who is ours.
        assert refused(await site.by_device(room_id, await site.proof(ALICE, THEIRS))) == unauthorized
        assert refused(await site.by_member(room_id, await site.proof(BOB), ALICE)) == unauthorized
        old = await site.proof(ALICE)
        site.clock.seconds += 3601
        assert refused(await site.by_device(room_id, old)) == unauthorized
        assert site.livekit.rooms == {}


@pytest.mark.parametrize(
    "change",
    [
        {"openid_token": None},
        {"openid_token": {"access_token": "t"}},
        {"openid_token": {"access_token": "", "matrix_server_name": OURS}},
        {"openid_token": {"access_token": "t", "matrix_server_name": "x" * 256}},
        {"member": {"id": "m", "claimed_user_id": ALICE}},
        {"member": {"id": "", "claimed_user_id": ALICE, "claimed_device_id": "D"}},
        {"slot_id": ""},
        {"slot_id": 7},
        {"delay_id": 7},
    ],
)
async def test_bodies_that_make_no_sense(database: Database, change: dict[str, Any]) -> None:
    """Refused before anybody is asked."""
    async with call_site(database) as site:
        answer = await site.by_member(
            "!r:localhost", {"access_token": "t", "matrix_server_name": OURS}, **change
        )
        assert refused(answer) == (400, "M_BAD_JSON")
        assert refused(await site.post("/sfu/get", {"device_id": "D", **change})) == (400, "M_BAD_JSON")


async def test_a_livekit_that_fails_is_not_the_callers_fault(database: Database) -> None:
    """502, in words; and the service itself is well."""
    async with call_site(database) as site:
        room_id = (await site.engine.new_room()).room_id
        site.livekit.broken = True
        proof = await site.proof(ALICE)
        assert refused(await site.by_device(room_id, proof)) == (502, "M_UNKNOWN")
        await site.livekit.server.stop()
        assert refused(await site.by_device(room_id, proof)) == (502, "M_UNKNOWN")
        assert (await site.service.request("GET", SERVICE_PATH + "/healthz")).status == 200
