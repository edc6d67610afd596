# SPDX-License-Identifier: Apache-2.0
"""A real Synapse as another server of the federation: TLS on loopback, SQLite, no limits.

Owns its configuration and its process. Installed from PyPI into the environment that the benchmark uses too.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from scripts.benchmarks.servers import SYNAPSE_LOGGING, SYNAPSE_RATE_LIMITS, Synapse
from tests.interop.federation.people import Person
from tests.serving import free_port

_SECRET = "a secret shared by the tests and their servers"
PASSWORD = "a password"
"""Of every account."""


class SynapseServer:
    """One Synapse; may be started again after `stop`."""

    def __init__(
        self,
        directory: Path,
        *,
        certificate: Path,
        private_key: Path,
        ca_file: Path,
        federation_port: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.directory = directory
        self.client_port = free_port()
        self.federation_port = federation_port or free_port()
        self.server_name = f"localhost:{self.federation_port}"
        self._files = {"tls_certificate_path": str(certificate), "tls_private_key_path": str(private_key)}
        self._ca_file = ca_file
        self._more = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id, for measuring."""
        assert self._process is not None, "not running"
        return self._process.pid

    def start(self) -> None:
        """Start it and return once it answers."""
        Synapse.prepare(lambda text: None)
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "homeserver.yaml"
        (self.directory / "logging.yaml").write_text(yaml.safe_dump(SYNAPSE_LOGGING))
        config.write_text(yaml.safe_dump(self._settings(), sort_keys=False))
        python = Synapse.ENVIRONMENT / "bin" / "python"
        command = [str(python), "-m", "synapse.app.homeserver", "--config-path", str(config)]
        if not (self.directory / "signing.key").exists():
            subprocess.run([*command, "--generate-keys"], cwd=self.directory, check=True, capture_output=True)
        with (self.directory / "synapse.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._wait_until_ready()

    def stop(self) -> None:
        """End it; its data stays."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def log(self) -> str:
        path = self.directory / "synapse.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def register(self, localpart: str) -> Person:
        """Make an account by the shared secret."""
        url = f"http://127.0.0.1:{self.client_port}/_synapse/admin/v1/register"
        nonce = _json(url)["nonce"]
        fields = [nonce, localpart, PASSWORD, "notadmin"]
        mac = hmac.new(_SECRET.encode(), "\0".join(fields).encode(), hashlib.sha1).hexdigest()
        body = {"nonce": nonce, "username": localpart, "password": fields[2], "admin": False, "mac": mac}
        made = _json(url, body)
        return Person(self, made["user_id"], made["access_token"])

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + 240
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.client_port}/health", timeout=30):
                    return
            except (urllib.error.URLError, OSError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"Synapse does not answer\n{self.log()[-12_000:]}") from None
                time.sleep(0.05)

    def _settings(self) -> dict[str, Any]:
        listener = {"bind_addresses": ["127.0.0.1"], "type": "http"}
        return {
            "server_name": self.server_name,
            "pid_file": str(self.directory / "synapse.pid"),
            "listeners": [
                {**listener, "port": self.client_port, "resources": [{"names": ["client", "health"]}]},
                {
                    **listener,
                    "port": self.federation_port,
                    "tls": True,
                    "resources": [{"names": ["federation", "keys"]}],
                },
            ],
            **self._files,
            "federation_custom_ca_list": [str(self._ca_file)],
            "ip_range_blacklist": [],
            "federation_ip_range_blacklist": [],
            "database": {"name": "sqlite3", "args": {"database": str(self.directory / "homeserver.db")}},
            "log_config": str(self.directory / "logging.yaml"),
            "media_store_path": str(self.directory / "media"),
            "signing_key_path": str(self.directory / "signing.key"),
            "registration_shared_secret": _SECRET,
            "macaroon_secret_key": "tests",
            "bcrypt_rounds": 4,
            "report_stats": False,
            "trusted_key_servers": [],
            "suppress_key_server_warning": True,
            "presence": {"enabled": True},
            "allow_public_rooms_over_federation": True,
            "allow_public_rooms_without_auth": True,
            "room_list_publication_rules": [{"action": "allow"}],
            "experimental_features": {"msc3266_enabled": True},
            # A server that comes back, or was slow once, is to be tried again within the patience of a test: by itself
            # Synapse lets it alone for ten minutes.
            "federation": {
                "client_timeout": "60s",
                "max_short_retry_delay": "1s",
                "max_long_retry_delay": "5s",
                "destination_min_retry_interval": "1s",
                "destination_max_retry_interval": "5s",
            },
            **SYNAPSE_RATE_LIMITS,
            "rc_federation": {
                "window_size": 1000,
                "sleep_limit": 100000,
                "reject_limit": 100000,
                "concurrent": 50,
            },
            **self._more,
        }


def _json(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=180) as answer:
        return json.loads(answer.read())
