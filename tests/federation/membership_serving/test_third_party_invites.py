# SPDX-License-Identifier: Apache-2.0
"""Invites by address that turn out to be somebody's: exchanged by another server, or told by an identity server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from federation.serving.threepid_onbind import MOST_INVITES
from homeserver.protocol.signing import sign_json
from tests.federation.membership_serving.world import V1, Serving, Visitor, path
from tests.federation.servers import make_key
from tests.rooms.services_fixture import alice, bob
from tests.web.loopback import Answer

IDENTITY_KEY = make_key("an identity server", "ed25519:0")


async def open_invite(serving: Serving, *, version: str = "11", token: str = "abc") -> str:
    """A private room of Alice's, into which she invited an address."""
    room_id = await serving.house.create(preset="private_chat", version=version)
    content = {
        "display_name": "a...@example.org",
        "key_validity_url": "https://id.test/valid",
        "public_key": IDENTITY_KEY.verify_key.to_base64(),
    }
    await serving.house.set(alice, room_id, "m.room.third_party_invite", content, token)
    return room_id


def word(user_id: str, token: str = "abc", key: Any = IDENTITY_KEY) -> dict[str, Any]:
    """What the identity server says."""
    return sign_json({"mxid": user_id, "token": token}, "id.test", key)


def partial(room_id: str, user_id: str, signed: Any, **changes: Any) -> dict[str, Any]:
    """A partial member event."""
    return {
        "type": "m.room.member",
        "room_id": room_id,
        "sender": alice.user_id,
        "state_key": user_id,
        "content": {
            "membership": "invite",
            "displayname": "Not to be taken over",
            "third_party_invite": {"display_name": "forged", "signed": signed},
        },
        **changes,
    }


async def exchange(visitor: Visitor, room_id: str, body: Any) -> Answer:
    """The request."""
    target = path(V1, "exchange_third_party_invite", room_id)
    return await visitor.serving.signed(visitor.server, "PUT", target, body)


async def bind(serving: Serving, user_id: str, *invites: Any) -> Answer:
    """What an identity server tells."""
    body = {"medium": "email", "address": "a@example.org", "mxid": user_id, "invites": invites}
    return await serving.request("PUT", f"{V1}/3pid/onbind", body=json.dumps(body).encode())


def pending(room_id: str, sender: str, signed: Any) -> dict[str, Any]:
    """One of its invites."""
    return {
        "medium": "email",
        "address": "a@example.org",
        "mxid": signed["mxid"],
        "room_id": room_id,
        "sender": sender,
        "signed": signed,
    }


@pytest.mark.parametrize("version", ["1", "6", "10", "11", "12"])
async def test_an_exchange_makes_the_invite(serving: Serving, hydra: Visitor, version: str) -> None:
    """Of the room's own token; from the request comes only what the identity server signed."""
    room_id = await open_invite(serving, version=version)
    signed = word(hydra.user_id)
    answer = await exchange(hydra, room_id, partial(room_id, hydra.user_id, signed))
    assert (answer.status, answer.json) == (200, {})
    (invite,) = serving.inviter.invited
    assert (invite["sender"], invite["state_key"]) == (alice.user_id, hydra.user_id)
    assert invite["content"] == {
        "membership": "invite",
        "third_party_invite": {"display_name": "a...@example.org", "signed": signed},
    }


async def test_an_exchange_is_refused(serving: Serving, hydra: Visitor, other: Visitor) -> None:
    """For other servers' users, by a sender who is not ours or not the one, for tokens that are none or of another."""
    room_id = await open_invite(serving)
    good = word(hydra.user_id)
    for body, status in (
        (partial(room_id, other.user_id, word(other.user_id)), 403),
        (partial(room_id, hydra.user_id, good, sender=hydra.user_id), 403),
        (partial(room_id, hydra.user_id, good, sender=bob.user_id), 403),
        (partial(room_id, hydra.user_id, word(hydra.user_id, "none")), 403),
        (partial(room_id, hydra.user_id, word(hydra.user_id, key=make_key("x", "ed25519:0"))), 403),
        (partial(room_id, hydra.user_id, word(other.user_id)), 400),
        (partial(room_id, hydra.user_id, None), 400),
        (partial(room_id, hydra.user_id, good, type="m.room.power_levels"), 400),
        (partial(room_id, hydra.user_id, good, content={"membership": "join"}), 400),
        (partial(room_id, hydra.user_id, good, state_key=None), 400),
        (partial("!else:localhost", hydra.user_id, good), 400),
    ):
        answer = await exchange(hydra, room_id, body)
        assert answer.status == status, (body, answer.raw)
    assert serving.inviter.invited == []
    unknown = partial("!else:localhost", hydra.user_id, good)
    assert (await exchange(hydra, "!else:localhost", unknown)).status == 404


async def test_a_member_is_not_made_an_invited_user(serving: Serving, hydra: Visitor) -> None:
    """The room's rules would let it pass."""
    room_id = await serving.house.public(version="11")
    content = {"display_name": "a", "public_key": IDENTITY_KEY.verify_key.to_base64()}
    await serving.house.set(alice, room_id, "m.room.third_party_invite", content, "abc")
    assert (await hydra.join(room_id)).status == 200
    answer = await exchange(hydra, room_id, partial(room_id, hydra.user_id, word(hydra.user_id)))
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


async def test_an_address_bound_to_our_user_redeems_invites(serving: Serving, hydra: Visitor) -> None:
    """In a room we are in by the room's rules; elsewhere the inviter's server is asked."""
    await serving.add_user(bob.user_id)
    room_id = await open_invite(serving)
    signed = word(bob.user_id)
    answer = await bind(
        serving,
        bob.user_id,
        pending(room_id, alice.user_id, signed),
        pending("!far:hydra.test", hydra.user_id, signed),
    )
    assert (answer.status, answer.json) == (200, {})
    assert (await serving.head(room_id)).membership(bob.user_id) == "invite"
    ((destination, asked_room, event),) = serving.exchanges.asked
    assert (destination, asked_room) == (hydra.server.name, "!far:hydra.test")
    assert event["content"]["third_party_invite"]["signed"] == signed
    assert (event["sender"], event["state_key"]) == (hydra.user_id, bob.user_id)


async def test_a_forged_word_redeems_nothing(serving: Serving) -> None:
    """Anybody can call; the others of the same call are redeemed all the same."""
    await serving.add_user(bob.user_id)
    rooms = [await open_invite(serving) for _ in range(4)]
    good = word(bob.user_id)
    answer = await bind(
        serving,
        bob.user_id,
        pending(rooms[0], alice.user_id, word(bob.user_id, key=make_key("x", "ed25519:0"))),
        pending(rooms[1], bob.user_id, good),
        pending(rooms[2], alice.user_id, word(alice.user_id)),
        {"room_id": 7},
        pending(rooms[3], alice.user_id, good),
    )
    assert answer.status == 200
    standing = [(await serving.head(room_id)).membership(bob.user_id) for room_id in rooms]
    assert standing == [None, None, None, "invite"]


async def test_whose_address_it_is_not_to_be(serving: Serving, hydra: Visitor) -> None:
    """Nobody's, another server's, a deactivated user's; and not for too many invites at once."""
    await serving.add_user(bob.user_id, deactivated=True)
    await serving.add_user(alice.user_id)
    for user_id in ("@nobody:localhost", hydra.user_id, bob.user_id, "nonsense"):
        answer = await bind(serving, user_id, pending("!r:hydra.test", hydra.user_id, word(user_id)))
        assert answer.status in (400, 403)
    many = [pending("!r:hydra.test", hydra.user_id, word(alice.user_id))] * (MOST_INVITES + 1)
    answer = await bind(serving, alice.user_id, *many)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
    assert serving.exchanges.asked == []


@pytest.mark.parametrize("how", ["blocks", "ignores"])
async def test_who_blocks_or_ignores_is_not_invited(serving: Serving, how: str) -> None:
    """By address neither."""
    await serving.add_user(bob.user_id)
    if how == "blocks":
        serving.house.world.blocked.add(bob.user_id)
    else:
        serving.ignoring.by_user[bob.user_id] = frozenset((alice.user_id,))
    room_id = await open_invite(serving)
    assert (
        await bind(serving, bob.user_id, pending(room_id, alice.user_id, word(bob.user_id)))
    ).status == 200
    assert (await serving.head(room_id)).membership(bob.user_id) is None
