# SPDX-License-Identifier: Apache-2.0
"""`lares doctor calls`: what works is said to work, by having done it; what does not, with what to change."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
import yaml

from homeserver.calls.doctor.turn import allocated
from homeserver.calls.media import examining
from homeserver.calls.media.messages import CallReport
from homeserver.observability.findings import Severity
from tests.calls.conftest import Town
from tests.calls.media_peer import PATIENCE
from tests.calls.turnserver import Coturn
from tests.serving import CHECKOUT

KEY, KEY_SECRET = "devkey", "a secret of LiveKit that is long enough"


class LiveKit(BaseHTTPRequestHandler):
    """As much of LiveKit as the examination asks: RoomService/ListRooms, for who may list rooms."""

    def do_POST(self) -> None:
        token = self.headers["Authorization"].removeprefix("Bearer ")
        self.rfile.read(int(self.headers["Content-Length"]))
        try:
            claims = jwt.decode(token, KEY_SECRET, algorithms=["HS256"], issuer=KEY)
            status = 200 if claims["video"].get("roomList") else 403
        except jwt.InvalidTokenError:
            status = 401
        self.answer(status if self.path == "/twirp/livekit.RoomService/ListRooms" else 404)

    def do_GET(self) -> None:
        self.answer(200)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def livekit() -> Iterator[int]:
    """The port of one."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), LiveKit)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def rtc(port: int, secret: str = KEY_SECRET) -> dict[str, Any]:
    return {"livekit_url": f"ws://127.0.0.1:{port}", "api_key": KEY, "api_secret": secret}


def examine(
    town: Town, directory: Path, turn: Coturn, settings: Mapping[str, Any], *options: str
) -> tuple[int, str]:
    """Run it with the server's configuration, changed; its exit code and what it printed."""
    config = yaml.safe_load(town.server.config_path.read_text()) | dict(settings)
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-m", "homeserver.cli", "doctor", "calls", "--config", str(path), *options],
        cwd=CHECKOUT,
        env={**os.environ, "SSL_CERT_FILE": str(turn.ca_file)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def test_all_is_well(town: Town, turn: Coturn, livekit: int, tmp_path: Path) -> None:
    """Every URI relays a call, the echo account answers one, and LiveKit takes the key."""
    code, text = examine(town, tmp_path, turn, {"rtc": rtc(livekit)}, "--json")
    report = json.loads(text)
    assert (code, report["problems"]) == (0, 0), text
    titles = [part["title"] for part in report["parts"]]
    assert titles == [
        *(f"TURN: {uri}" for uri in turn.uris.values()),
        "Echo account: @echo:localhost",
        f"LiveKit: ws://127.0.0.1:{livekit}",
    ]
    said = {part["title"]: [finding["text"] for finding in part["findings"]] for part in report["parts"]}
    for uri in turn.uris.values():
        address, call = said[f"TURN: {uri}"]
        assert address.startswith("It gives an address: 127.0.0.1:")
        assert "It sees this machine as 127.0.0.1:" in address
        assert call.startswith("A call through it alone works both ways")
    assert said[titles[-2]][0].startswith("It answered within ")
    assert said[titles[-1]][0] == "It answers, and takes our key."
    # Nobody can go on as the caller.
    admin = town.server.register("overseer", admin=True)
    path = "/_matrix/client/v3/admin/whois/@_lares_doctor:localhost"
    answer = town.server.call("GET", path, token=admin.access_token)
    assert (answer.status, answer.body["devices"]) == (200, {})


def test_a_relay_that_nobody_can_reach_is_told() -> None:
    """coturn behind a router, without `external-ip`: the commonest mistake."""
    answer = {"relayed": "10.0.0.7:50000", "reflexive": "8.8.8.8:4444", "server": "1.1.1.1"}
    assert [each.severity for each in allocated(answer)] == [Severity.OK, Severity.PROBLEM]
    for change in ({"relayed": "1.1.1.1:50000"}, {"relayed": "[2606:4700::1]:50000"}, {"server": "10.0.0.7"}):
        assert [each.severity for each in allocated(answer | change)] == [Severity.OK]


def test_what_comes_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is slow to send or to decode is no relay that loses things."""
    monkeypatch.setattr(examining, "TALKING", 0.0)
    monkeypatch.setattr(examining, "LONGEST", PATIENCE)

    async def scenario() -> list[CallReport]:
        one, other = (examining.Peer((), relay_only=False) for _ in range(2))
        try:
            await one.accept(await other.answer(await one.offer()))
            return list(await asyncio.gather(one.talk(), other.talk()))
        finally:
            await asyncio.gather(one.close(), other.close())

    for report in asyncio.run(scenario()):
        assert {each.kind for each in report.received if each.frames} == {"audio", "video"}


def test_what_is_wrong_is_said_with_what_to_change(
    town: Town, turn: Coturn, livekit: int, tmp_path: Path
) -> None:
    """Another secret, a port where nothing listens, an account that is not there, another key."""
    with socket.socket() as taken:  # by us, who do not listen: so it stays
        taken.bind(("127.0.0.1", 0))
        code, text = examine(town, tmp_path, turn, wrong(turn, livekit, taken.getsockname()[1]))
    assert code == 1
    flat = " ".join(text.split())
    assert "It refuses our credentials: 401 Unauthorized. turn.shared_secret must be coturn's" in flat
    assert "It cannot be reached over TCP" in flat
    assert "There is no echo account (calls.echo_user)" in flat
    assert "It answers, and does not take our key. rtc.api_key and rtc.api_secret must be a pair" in flat
    assert flat.endswith("3 problems found with the calls of localhost.")


def wrong(turn: Coturn, livekit: int, port: int) -> dict[str, Any]:
    """Settings of which none is right. `port`: where nothing listens."""
    return {
        "turn": {
            "uris": [turn.uris["udp"], f"turn:127.0.0.1:{port}?transport=tcp"],
            "shared_secret": "another secret",
        },
        "calls": {"echo_user": None},
        "rtc": rtc(livekit, "not the secret of LiveKit, but as long"),
    }


def test_a_server_that_does_not_run(town: Town, turn: Coturn, tmp_path: Path) -> None:
    """Its echo account answers nobody; nothing configured is no problem."""
    settings = {"data_dir": str(tmp_path / "nothing"), "turn": {}, "database": {"url": None}}
    code, text = examine(town, tmp_path, turn, settings)
    assert code == 1
    assert "The server does not run, so its echo account answers nobody. Start it" in " ".join(text.split())
    assert "No TURN server is configured" in text
    assert "1 problem found" in text
