# SPDX-License-Identifier: Apache-2.0
"""Listeners that speak TLS are bounded as others are."""

from pathlib import Path

from homeserver.config.sections import Listener
from tests.web.loopback import Loopback
from tests.web.test_connections import Pending, certificate, routes


async def test_no_more_connections_than_allowed(tmp_path: Path) -> None:
    """Also of those that never say a word, which TLS would not notice."""
    tls = certificate(tmp_path)
    server = Loopback(routes(Pending()), max_connections=1, listener=Listener(port=0, tls=tls))
    kept = await server.connect()
    assert (await kept.request("GET", "/here")).status == 200
    refused = await server.connect()
    await refused.end()
    assert (await kept.request("GET", "/here")).status == 200
    await server.stop()
