# SPDX-License-Identifier: Apache-2.0
"""The server's side of shared-secret registration, in a thread, for tests of the command line alone.

Owns an HTTP server on a free loopback port that gives nonces, checks the proof as the Synapse admin API documents
it, and keeps the accounts it was asked for. It shares no code with what it tests.
"""

import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

PATH = "/_synapse/admin/v1/register"
NONCE = "a nonce"


class RegistrationServer:
    """What it was asked for, and where it is. An account that exists already is refused."""

    def __init__(self, secret: str) -> None:
        self.accounts: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            """One request."""

            def do_GET(self) -> None:
                """Give the nonce."""
                self._answer(200 if self.path == PATH else 404, {"nonce": NONCE})

            def do_POST(self) -> None:
                """Register, or say why not."""
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._answer(*outer.register(secret, body))

            def log_message(self, format: str, *args: object) -> None:
                """Keep the tests' output clean."""

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port

    def register(self, secret: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and body of the answer to a registration."""
        admin = b"admin" if body["admin"] else b"notadmin"
        message = b"\x00".join([NONCE.encode(), body["username"].encode(), body["password"].encode(), admin])
        wanted = hmac.new(secret.encode(), message, hashlib.sha1).hexdigest()
        if body["nonce"] != NONCE or not hmac.compare_digest(wanted, body["mac"]):
            return 403, {"errcode": "M_FORBIDDEN", "error": "HMAC incorrect"}
        if any(account["username"] == body["username"] for account in self.accounts):
            return 400, {"errcode": "M_USER_IN_USE", "error": "User ID already taken."}
        self.accounts.append(body)
        return 200, {"user_id": f"@{body['username']}:localhost", "access_token": "t", "device_id": "D"}

    @contextmanager
    def running(self) -> "Iterator[RegistrationServer]":
        """Answer requests meanwhile."""
        thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()
