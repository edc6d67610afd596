# SPDX-License-Identifier: Apache-2.0
"""The log: an object per line, a request's id on each of its lines, and nothing a user would not say aloud."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2

from tests.serving import SHARED_SECRET, Account, ServerProcess, postgres, serving

SECRET = "ZsecretZ"
V3 = "/_matrix/client/v3"


def lines_of(server: ServerProcess) -> list[dict[str, Any]]:
    """Every line of standard error, none of which may be anything but an object."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in server.log().splitlines()]
    return lines


@contextmanager
def refusing(url: str, *only: str) -> Iterator[None]:
    """Meanwhile no table, or none of these, takes a row: a failure within the server whose report, from Postgres, holds
    the row.
    """
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        tables = only or [row[0] for row in cursor.fetchall()]
        for table in tables:
            cursor.execute(f'ALTER TABLE "{table}" ADD CONSTRAINT nothing_more CHECK (false) NOT VALID')
        try:
            yield
        finally:
            for table in tables:
                cursor.execute(f'ALTER TABLE "{table}" DROP CONSTRAINT nothing_more')


def test_every_line_of_a_request_carries_its_id(tmp_path: Path) -> None:
    """Those of a request that failed within, too: its traceback is in an object under the id it is found by."""
    with (
        postgres(tmp_path / "db") as url,
        serving(tmp_path, database_url=url, settings={"logging": {"format": "json"}}) as server,
    ):
        alice = server.register("alice")
        path = f"{V3}/user/{quote(alice.user_id)}/account_data/org.example"
        with refusing(url, "account_data"):  # in others the server may want to write something at any time
            assert server.call("PUT", path, {"a": 1}, token=alice.access_token).status == 500
        assert server.call("PUT", path, {"a": 1}, token=alice.access_token).status == 200
    lines = lines_of(server)
    for line in lines:
        assert {"time", "level", "logger"} <= line.keys()
    access = [line for line in lines if line["logger"] == "access"]
    for line in access:
        assert {"request", "method", "route", "status", "ms", "user"} <= line.keys()
    assert len({line["request"] for line in access}) == len(access)
    (failed,) = [line for line in access if line["status"] == 500]
    assert failed["user"] == alice.user_id
    (why,) = [line for line in lines if "traceback" in line]
    assert (why["request"], why["level"]) == (failed["request"], "error")
    assert "Traceback (most recent call last)" in why["traceback"]


def test_no_secret_reaches_a_log(tmp_path: Path) -> None:
    """Whatever way it came: bodies, queries, headers, paths, malformed requests, and rows Postgres refuses."""
    settings = {"logging": {"format": "json", "level": "debug"}}
    with (
        postgres(tmp_path / "db") as url,
        serving(tmp_path, database_url=url, settings=settings) as server,
    ):
        alice = server.register("alice", f"{SECRET}-password", admin=True)
        tokens = [alice.access_token, *say_it_everywhere(server, alice)]
        with refusing(url):
            answers = [server.call(*request, token=alice.access_token) for request in requests(alice)]
        assert len([answer for answer in answers if answer.status == 500]) >= 5
    logs = server.log() + (tmp_path / "db" / "postgres.log").read_text()
    assert "/_matrix/client/v3/login" in logs
    assert "nothing_more" in logs
    for secret in (SECRET, SHARED_SECRET, *tokens):
        assert secret not in logs, f"{secret} is in {logs[max(0, logs.index(secret) - 900) :][:1200]}"
    for token in tokens:
        assert hashlib.sha256(token.encode()).hexdigest() not in logs


def requests(alice: Account) -> Iterator[tuple[str, str, object]]:
    """Method, path and body of requests that are full of it, right ones and wrong ones."""
    me = quote(alice.user_id)
    identifier = {"type": "m.id.user", "user": alice.user_id}
    password = {"type": "m.login.password", "identifier": identifier, "password": f"{SECRET}-password"}
    yield "POST", f"{V3}/login", password
    yield "POST", f"{V3}/login", {**password, "password": f"{SECRET}-wrong"}
    yield "POST", f"{V3}/login", {"type": "m.login.token", "token": SECRET}
    yield "POST", f"{V3}/register", {"username": "bob", "password": SECRET, "auth": {"type": SECRET}}
    yield "POST", f"{V3}/refresh", {"refresh_token": SECRET}
    yield "POST", f"{V3}/account/password", {"new_password": SECRET, "auth": {**password, "session": SECRET}}
    yield "GET", f"{V3}/account/whoami?access_token={SECRET}", None
    yield "GET", f"{V3}/sync?timeout=0&filter={SECRET}&since={SECRET}", None
    yield "GET", f"{V3}/register/m.login.registration_token/validity?token={SECRET}", None
    yield "GET", f"/_matrix/client/ws/r0?access_token={SECRET}", None
    yield "GET", f"/_matrix/{SECRET}", None
    yield "PUT", f"{V3}/profile/{me}/displayname", {"displayname": SECRET}
    yield "PUT", f"{V3}/user/{me}/account_data/org.example", {"x": SECRET}
    yield "POST", f"{V3}/user/{me}/filter", {"room": {"not_rooms": [SECRET]}}
    yield "POST", f"{V3}/user_directory/search", {"search_term": SECRET}
    yield "PUT", f"{V3}/devices/{alice.device_id}", {"display_name": SECRET}
    yield "POST", f"{V3}/createRoom", {"name": SECRET, "topic": SECRET, "room_alias_name": SECRET}
    yield "POST", f"{V3}/createRoom", {"name": [SECRET]}
    yield "POST", f"{V3}/createRoom", f'{{"name": "{SECRET}'.encode()
    yield "POST", f"{V3}/createRoom", f'{{"name": "\\u0000{SECRET}"}}'.encode()
    yield "POST", f"{V3}/createRoom", SECRET.encode() + b"\xff"
    yield "POST", f"{V3}/join/%23{SECRET}:localhost", {}
    yield "PUT", f"{V3}/rooms/!{SECRET}/send/m.room.message/{SECRET}", {"body": SECRET}
    yield "GET", f"{V3}/rooms/!{SECRET}/event/%24{SECRET}", None


def say_it_everywhere(server: ServerProcess, alice: Account) -> list[str]:
    """Send all of it, a message in a room, and some bytes that are no HTTP; the tokens that were given out."""
    tokens = []
    for method, path, body in requests(alice):
        answer = server.call(method, path, body, token=alice.access_token)
        assert answer.status < 500, (method, path, answer.body)
        if path.endswith("/login") and answer.status == 200:
            tokens.append(answer.body["access_token"])
    room = server.call("POST", f"{V3}/createRoom", {}, token=alice.access_token).body["room_id"]
    path = f"{V3}/rooms/{quote(room)}/send/m.room.message/{SECRET}"
    sent = server.call("PUT", path, {"msgtype": "m.text", "body": SECRET}, token=alice.access_token)
    assert sent.status == 200, sent.body
    openid = server.call(
        "POST", f"{V3}/user/{quote(alice.user_id)}/openid/request_token", {}, token=alice.access_token
    )
    tokens.append(openid.body["access_token"])
    nonce = server.call("GET", "/_synapse/admin/v1/register").body["nonce"]
    mac = hmac.new(SECRET.encode(), nonce.encode(), hashlib.sha1).hexdigest()
    body = {"nonce": nonce, "username": "carol", "password": SECRET, "mac": mac}
    assert server.call("POST", "/_synapse/admin/v1/register", body).status == 403
    for text in (
        f"{SECRET}\r\n\r\n",
        f"GET /{SECRET} HTTP/1.1\r\n{SECRET}\r\n\r\n",
        f"GET /{'x' * 40_000}{SECRET}",
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=90) as connection:
            connection.sendall(text.encode())
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
    return [*tokens, mac, nonce]
