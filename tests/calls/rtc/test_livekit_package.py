# SPDX-License-Identifier: Apache-2.0
"""LiveKit's own package reads this server's tokens as they are meant, and this server the package's signatures."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from homeserver.calls.rtc.naming import livekit_identity, livekit_room
from homeserver.calls.rtc.tokens import LiveKitTokens
from homeserver.errors import Unauthorized
from storage.database import Database
from tests.calls.rtc.call_site import EVE, KEY, SECRET, SLOT, THEIRS, call_site
from tests.interop.environments import python
from tests.rooms.engine_fixture import ALICE

SCRIPT = Path(__file__).with_name("livekit_package.py")
BODY = '{"event":"participant_left"}'


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    """Before there are tokens, which would run out meanwhile."""
    python()


def ask_the_package(verify: list[str], sign: list[str], secret: str = SECRET) -> Any:
    """What the package makes of tokens and bodies."""
    asked = json.dumps({"key": KEY, "secret": secret, "verify": verify, "sign": sign})
    done = subprocess.run(
        [str(python()), str(SCRIPT)], input=asked, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.reactor_timeout(240)
async def test_the_package_verifies_both_forms(database: Database) -> None:
    """Who, where, and what they may; a token that ran out, or of another key, is worth nothing."""
    async with call_site(database) as site:
        room_id = (await site.engine.new_room()).room_id
        await site.engine.join(room_id, EVE)
        old = (await site.by_device(room_id, await site.proof(ALICE))).json["jwt"]
        site.clock.seconds = time.time()
        newer = (await site.by_member(room_id, await site.proof(ALICE))).json["jwt"]
        older = (await site.by_device(room_id, await site.proof(EVE, THEIRS))).json["jwt"]
        forged = LiveKitTokens(api_key=KEY, api_secret="x" * 40, clock=time.time).joining("room", ALICE)
        making = site.tokens.making_rooms()
    grants = {
        "room": livekit_room(room_id, SLOT),
        "join": True,
        "create": None,
        "admin": None,
        "publish": True,
        "subscribe": True,
        "own_metadata": True,
    }
    first, second, own, *wrong = ask_the_package([newer, older, making, old, forged], [])["verified"]
    assert {name: value or None for name, value in first.items()} == {
        **grants,
        "identity": livekit_identity(ALICE, "DEV", "member"),
    }
    assert {name: value or None for name, value in second.items()} == {**grants, "identity": f"{EVE}:DEV"}
    assert (own["create"], own["join"] or None) == (True, None)
    assert wrong == [{"error": "ExpiredSignatureError"}, {"error": "InvalidSignatureError"}]


def test_a_webhook_is_livekits_or_nobodys() -> None:
    """Signed as the package signs; with another secret, for another body, without a body's digest, or long ago: no."""
    now = [time.time()]
    tokens = LiveKitTokens(api_key=KEY, api_secret=SECRET, clock=lambda: now[0])
    (good,) = ask_the_package([], [BODY])["signed"]
    (foreign,) = ask_the_package([], [BODY], secret="another secret of at least thirty-two letters")["signed"]
    tokens.check_webhook(good, BODY.encode())
    for header, body in (
        (foreign, BODY),
        (good, BODY + " "),
        (tokens.making_rooms(), BODY),
        ("", BODY),
        ("a.b.c", BODY),
    ):
        with pytest.raises(Unauthorized):
            tokens.check_webhook(header, body.encode())
    now[0] += 8 * 3600
    with pytest.raises(Unauthorized):
        tokens.check_webhook(good, BODY.encode())
