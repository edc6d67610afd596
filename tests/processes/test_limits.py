# SPDX-License-Identifier: Apache-2.0
"""A rate limit is the same however many workers there are."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from pathlib import Path
from urllib.parse import quote

from homeserver.web.rate_limits import DEFAULTS
from tests.processes.asking import CLIENT
from tests.serving import as_url, serving

CONNECTIONS = 12
"""Which three workers share out among them."""


def test_who_divides_requests_among_workers_gets_no_more(tmp_path: Path, database_url: str) -> None:
    """A burst in all, over connections of which each worker has some."""
    limit = DEFAULTS["profile"]
    settings = {"rate_limits": {"enabled": True}}
    with (
        serving(tmp_path, database_url=as_url(database_url), workers=3, settings=settings) as server,
        contextlib.ExitStack() as stack,
    ):
        alice = server.register("alice")
        path = f"{CLIENT}/profile/{quote(alice.user_id)}/displayname"
        head = {"Authorization": f"Bearer {alice.access_token}"}
        connections = [http.client.HTTPConnection("127.0.0.1", server.port) for _ in range(CONNECTIONS)]
        for connection in connections:
            stack.callback(connection.close)
            connection.connect()
        began, answers = time.monotonic(), []
        for n in range(3 * CONNECTIONS):
            connection = connections[n % CONNECTIONS]
            connection.request("PUT", path, json.dumps({"displayname": str(n)}), head)
            answer = connection.getresponse()
            answer.read()
            answers.append(answer.status)
        gained = (time.monotonic() - began) * limit.per_second
    assert set(answers) == {200, 429}
    assert limit.burst <= answers.count(200) <= limit.burst + gained
