# SPDX-License-Identifier: Apache-2.0
"""Clients get credentials that the TURN server can check and that end."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

import pytest

from homeserver.calls.turn import turn_credentials
from homeserver.clientapi.voip import VoipEndpoints
from homeserver.config import StartRefused, parse
from homeserver.config.call_sections import Turn
from homeserver.web.authentication import Requester
from tests.web.loopback import ALICE, Loopback

URIS = ("turn:turn.example.org?transport=udp", "turns:turn.example.org:443?transport=tcp", "stun:t.example")
NOW = 1_443_693_379.9
TOKENS = {"alice": ALICE, "guest": Requester(user_id="@1:test", is_guest=True)}


async def ask(turn: Turn, token: str = "alice") -> tuple[int, object]:
    """Status and body of `GET /voip/turnServer` on a server so configured."""
    endpoints = VoipEndpoints(turn_credentials(turn), allow_guests=turn.allow_guests, clock=lambda: NOW)
    server = Loopback(endpoints.routes(), tokens=TOKENS)
    try:
        answer = await server.request("GET", "/_matrix/client/v3/voip/turnServer", token=token)
        return answer.status, answer.json
    finally:
        await server.stop()


async def test_credentials_are_made_by_the_shared_secret() -> None:
    """User name and password as a TURN server makes them from the same secret (draft-uberti-behave-turn-rest)."""
    status, body = await ask(Turn(uris=URIS, shared_secret="s3cret"))
    username = f"{1_443_693_379 + 3600}:@alice:test"
    mac = hmac.new(b"s3cret", username.encode(), hashlib.sha1).digest()
    assert (status, body) == (
        200,
        {
            "username": username,
            "password": base64.b64encode(mac).decode(),
            "uris": list(URIS),
            "ttl": 3600,
        },
    )


async def test_fixed_credentials() -> None:
    """For TURN servers that know nothing else."""
    _, body = await ask(Turn(uris=URIS, username="u", password="p"))
    assert body == {"username": "u", "password": "p", "uris": list(URIS), "ttl": 3600}


async def test_without_turn_there_is_none() -> None:
    """MSC4166: an empty object would lack what the specification requires."""
    status, body = await ask(Turn())
    assert (status, isinstance(body, dict) and body["errcode"]) == (404, "M_NOT_FOUND")


async def test_guests_by_setting() -> None:
    """403, by which clients know not to ask again."""
    assert (await ask(Turn(uris=URIS, username="u", password="p"), "guest"))[0] == 403
    assert (await ask(Turn(uris=URIS, username="u", password="p", allow_guests=True), "guest"))[0] == 200


def test_the_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    """Without the line's end; an empty file is no secret."""
    (tmp_path / "secret").write_text("s3cret\n")
    text = "turn: {uris: ['turn:h'], shared_secret_file: secret}"
    config = parse(text, source="test", folder=tmp_path)
    made, given = (
        turn_credentials(config.turn),
        turn_credentials(Turn(uris=("turn:h",), shared_secret="s3cret")),
    )
    assert made is not None
    assert given is not None
    assert made.for_user("@a:b", NOW) == given.for_user("@a:b", NOW)
    (tmp_path / "secret").write_text("\n")
    with pytest.raises(StartRefused, match="is empty"):
        turn_credentials(config.turn)


def test_secrets_stay_out_of_logs() -> None:
    """Neither the configuration nor the credentials show them where somebody prints them."""
    turn = Turn(uris=URIS, shared_secret="s3cret")
    made = turn_credentials(turn)
    assert made is not None
    login = made.for_user("@alice:test", NOW)
    assert "s3cret" not in repr(turn) + repr(made) + repr(login)
    assert login.password not in repr(login)
