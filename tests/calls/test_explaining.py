# SPDX-License-Identifier: Apache-2.0
"""What went wrong with a call is said in the sentence that helps, for each way it can go wrong."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.calls.echo.explaining import explain
from homeserver.calls.media.messages import CallReport, Received

SOUND = Received(kind="audio", codec="opus", packets=1000, lost=0, jitter_ms=4.0, frames=990)


def report(**changes: Any) -> CallReport:
    """A call that went well, changed."""
    fine: dict[str, Any] = {
        "why": "over",
        "seconds": 60.0,
        "connected": True,
        "connected_after_ms": 800,
        "local": "host",
        "remote": "srflx",
        "offered": ("host",),
        "heard_of": ("host", "srflx"),
        "received": (SOUND,),
    }
    return CallReport(**(fine | changes))


def sound(**changes: Any) -> Received:
    return Received(**{name: getattr(SOUND, name) for name in Received.__slots__} | changes)


def lost(**changes: Any) -> CallReport:
    return report(**{"why": "no_path", "connected": False, "received": (), "seconds": 30.0} | changes)


@pytest.mark.parametrize(
    ("told", "has_relay", "sentence"),
    [
        (
            report(),
            True,
            "connected after 0.8 s: your app through a router (reflexive), the server directly (host)",
        ),
        (report(), True, "Sound (opus): 1000 packets arrived, 0 were lost (0.0 %), jitter 4 ms."),
        (report(), True, "Everything arrived well"),
        (report(received=(sound(packets=0, frames=0),)), True, "check that it may use the microphone"),
        (report(received=(sound(silent=True),)), True, "your microphone is muted"),
        (report(received=(sound(lost=100),)), True, "100 were lost (9.1 %)"),
        (report(received=(sound(lost=100),)), True, "your connection is weak or full"),
        (report(received=(sound(jitter_ms=80.0),)), True, "Packets came unevenly"),
        (report(received=(SOUND, sound(kind="video", packets=0, frames=0))), True, "may use the camera"),
        (report(received=()), True, "sent neither sound nor picture"),
        (report(why="vanished"), True, "your network was lost or changed"),
        (report(why="too_much"), True, "more data than this test carries"),
        (report(why="stopped"), True, "please call once more"),
        (lost(heard_of=()), True, "told of no address"),
        (lost(), False, "This server has no TURN server"),
        (lost(relay_failed=True), True, "should run `lares doctor calls`"),
        (lost(offered=("host", "relay")), True, "Your app got no address from the TURN server"),
        (lost(heard_of=("relay",), offered=("relay",)), True, "open the UDP ports of its relays"),
        (lost(why="no_handshake"), True, "Try it without a VPN"),
        (lost(why="caller", seconds=1.0), True, "You hung up before"),
        (lost(why="caller"), False, "This server has no TURN server"),
        (lost(why="unusable"), True, "is it up to date?"),
        (lost(why="stopped"), True, "please call once more"),
        (lost(), False, "by your app host, reflexive; by the server host."),
    ],
)
def test_each_trouble_has_its_sentence(told: CallReport, has_relay: bool, sentence: str) -> None:
    """And only calls that went well are said to."""
    text = explain(told, has_relay=has_relay)
    assert sentence in text
    fine = told.why == "over" and told.connected and told.received == (SOUND,)
    assert ("Everything arrived well" in text) == fine
