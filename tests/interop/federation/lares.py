# SPDX-License-Identifier: Apache-2.0
"""One of our servers as a member of the federation: client API in the clear, federation over TLS, both on loopback."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.embedded_access import running_embedded_database
from storage.federation_status import retry_now
from tests.interop.federation.people import Person
from tests.serving import ServerProcess, free_port


class LaresServer:
    """A server process with its embedded database; may be started again after `stop`."""

    def __init__(
        self,
        directory: Path,
        *,
        certificate: Path,
        private_key: Path,
        ca_file: Path,
        settings: Mapping[str, Any] | None = None,
        door: int | None = None,
    ) -> None:
        """`door`: the port of the server's name, if something stands there that passes on to `federation_port`."""
        self.federation_port = free_port()
        self.server_name = f"localhost:{door or self.federation_port}"
        self.process = ServerProcess(directory, server_name=self.server_name)
        self.process.settings.update(
            {
                "listeners": [
                    {
                        "bind": "127.0.0.1",
                        "port": self.process.port,
                        "serves": ["client", "media", "admin", "metrics"],
                    },
                    {
                        "bind": "127.0.0.1",
                        "port": self.federation_port,
                        "serves": ["federation"],
                        "tls": {"certificate": str(certificate), "private_key": str(private_key)},
                    },
                ],
                "federation": {"ca_file": str(ca_file), "allow_ip_ranges": ["127.0.0.0/8", "::1/128"]},
                **(settings or {}),
            }
        )

    @property
    def client_port(self) -> int:
        return self.process.port

    @property
    def pid(self) -> int:
        """Process id, for measuring."""
        return self.process.pid

    def start(self) -> None:
        self.process.start()

    def stop(self) -> None:
        if self.process.running:
            self.process.stop()

    def retry(self, server_name: str) -> None:
        """Tell it that another server is there again, as `lares federation retry` does."""
        dsn = running_embedded_database(self.process.data_dir)
        assert dsn is not None
        retry_now(dsn, server_name)

    def log(self) -> str:
        return self.process.log()

    def register(self, localpart: str) -> Person:
        made = self.process.register(localpart)
        return Person(self, made.user_id, made.access_token)
