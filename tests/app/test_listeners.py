# SPDX-License-Identifier: Apache-2.0
"""What is served where, over TLS too; figures and health for those who watch."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

from homeserver.app.shares import Shares
from storage.embedded import EmbeddedPostgres
from tests.app.looking import figures
from tests.serving import CHECKOUT, SHARED_SECRET, ServerProcess, free_port, serving
from tests.waiting import wait_until
from tests.web.loopback import certificate

VERSIONS, METRICS, NONCE = "/_matrix/client/versions", "/metrics", "/_synapse/admin/v1/register"


def status_at(port: int, path: str, context: ssl.SSLContext | None = None) -> int:
    """GET from one listener."""
    connection: http.client.HTTPConnection
    if context is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
    else:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=90, context=context)
    with closing(connection):
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().status


def test_each_listener_serves_what_it_was_told(tmp_path: Path) -> None:
    """Clients here, administration there, figures elsewhere; health everywhere; all named when ready."""
    tls = certificate(tmp_path)
    client, admin, watch = free_port(), free_port(), free_port()
    shown = {"certificate": str(tls.certificate), "private_key": str(tls.private_key)}
    listeners = [
        {"bind": "127.0.0.1", "port": client, "serves": ["client"], "tls": shown},
        {"bind": "127.0.0.1", "port": admin, "serves": ["admin"]},
        {"bind": "127.0.0.1", "port": watch, "serves": ["metrics"]},
    ]
    trusting = ssl.create_default_context(cafile=str(tls.certificate))
    trusting.check_hostname = False
    with serving(tmp_path, settings={"listeners": listeners}) as server:
        named = [f"127.0.0.1:{client}", f"127.0.0.1:{admin}", f"127.0.0.1:{watch}"]
        assert server.ready_line == f"ready: localhost on {', '.join(named)}"
        answers = {
            port: [status_at(port, path, context) for path in (VERSIONS, METRICS, NONCE, "/health")]
            for port, context in ((client, trusting), (admin, None), (watch, None))
        }
        assert answers == {
            client: [200, 404, 404, 200],
            admin: [404, 404, 200, 200],
            watch: [404, 200, 404, 200],
        }
        with pytest.raises((http.client.HTTPException, OSError)):
            status_at(client, VERSIONS)


def test_the_command_line_knows_its_own_certificate(tmp_path: Path) -> None:
    """An only listener with TLS shows a name that is not the loopback address: `register-user` works, as is."""
    tls = certificate(tmp_path)
    shown = {"certificate": str(tls.certificate), "private_key": str(tls.private_key)}
    listener = {"bind": "127.0.0.1", "port": free_port(), "serves": ["client", "admin"], "tls": shown}
    with serving(tmp_path, settings={"listeners": [listener]}) as server:
        (tmp_path / "other").mkdir()
        register = [sys.executable, "-m", "homeserver.cli", "register-user", "--password", "open sesame"]
        config = ["--config", str(server.config_path)]
        run = subprocess.run(
            [*register, *config, "alice"], cwd=CHECKOUT, capture_output=True, text=True, check=False
        )
        assert (run.returncode, run.stdout) == (0, "registered user @alice:localhost\n"), run.stderr
        # Another server's certificate on that port would not do.
        other = certificate(tmp_path / "other")
        elsewhere = tmp_path / "elsewhere.yaml"
        settings = {
            "registration": {"shared_secret": SHARED_SECRET},
            "listeners": [
                {
                    **listener,
                    "tls": {"certificate": str(other.certificate), "private_key": str(other.private_key)},
                }
            ],
        }
        elsewhere.write_text(json.dumps(settings))
        run = subprocess.run(
            [*register, "--config", str(elsewhere), "bob"],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 1
        assert "certificate verify failed" in run.stderr


def test_the_figures_cover_requests_database_stream_and_queues(tmp_path: Path) -> None:
    """They move with what is done."""
    with serving(tmp_path) as server:
        alice = server.register("alice")
        before = figures(server)
        room = server.call("POST", "/_matrix/client/v3/createRoom", {}, token=alice.access_token).body
        path = f"/_matrix/client/v3/rooms/{quote(room['room_id'])}/send/m.room.message/1"
        assert (
            server.call("PUT", path, {"msgtype": "m.text", "body": "x"}, token=alice.access_token).status
            == 200
        )
        idle = ("lares_stream_commit_queue", "lares_database_pool_waiting", "lares_stream_listeners")
        wait_until(lambda: not any(figures(server)[queue] for queue in idle), "nothing waits")
        wait_until(lambda: figures(server)["lares_http_in_flight"] == 1, "nothing but this is asked")
        after = figures(server)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    created = 'lares_http_requests_total{method="POST",route="/_matrix/client/v3/createRoom",status="200"}'
    assert grown(created) == 1
    assert grown("lares_stream_position") >= 2
    assert grown("lares_stream_commit_positions_count") >= 2
    assert sum(grown(name) for name in after if name.startswith("lares_database_statement_seconds_count")) > 0
    assert after["process_resident_memory_bytes"] > 0
    assert all(f'lares_cache_bytes{{cache="{share}"}}' in after for share in Shares.__struct_fields__)


def test_health_tells_of_the_database(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """200, 503 while the database is away, and 200 again without a restart; writing works again, too."""
    database = EmbeddedPostgres(tmp_path_factory.mktemp("db"))
    url = f"postgresql:///lares?{_query(database.start())}"
    try:
        with serving(tmp_path, database_url=url) as server:
            alice = server.register("alice")
            wait_until(lambda: _health(server) == (200, {"status": "ok"}), "the server is well")
            database.stop()
            assert _health(server) == (503, {"status": "unavailable"})
            assert f"postgresql:///lares?{_query(database.start())}" == url
            wait_until(lambda: _health(server) == (200, {"status": "ok"}), "the server is well again")
            create, token = "/_matrix/client/v3/createRoom", alice.access_token
            wait_until(lambda: server.call("POST", create, {}, token=token).status == 200, "it writes again")
    finally:
        database.stop()


def _query(dsn: str) -> str:
    """A connection string's parts, as the query of a URL."""
    return "&".join(part for part in dsn.split() if not part.startswith("dbname="))


def _health(server: ServerProcess) -> tuple[int, object]:
    answer = server.call("GET", "/health")
    return answer.status, answer.body
