# SPDX-License-Identifier: Apache-2.0
"""Listeners that speak TLS: as others do, and bounded as they are."""

import re
from pathlib import Path

import pytest

from homeserver.config import StartRefused
from homeserver.config.sections import Listener
from tests.web.loopback import Loopback, certificate
from tests.web.test_upgrades import ROUTES, check_echo


async def test_requests_and_websockets(tmp_path: Path) -> None:
    server = Loopback(ROUTES, listener=Listener(port=0, tls=certificate(tmp_path)))
    answer = await server.request("GET", "/here")
    assert answer.json == {"secure": True}
    await check_echo(await server.connect())
    await server.stop()


async def test_a_bad_certificate_is_refused_clearly(tmp_path: Path) -> None:
    tls = certificate(tmp_path)
    tls.private_key.write_text("no key")
    server = Loopback(ROUTES)
    with pytest.raises(StartRefused, match=re.escape(f"cannot use {tls.certificate} with {tls.private_key}")):
        server.server.listen(Listener(port=0, tls=tls))
    await server.stop()


async def test_no_more_connections_than_allowed(tmp_path: Path) -> None:
    """Also of those that never say a word, which TLS would not notice."""
    listener = Listener(port=0, tls=certificate(tmp_path))
    server = Loopback(ROUTES, max_connections=1, listener=listener)
    kept = await server.connect()
    assert (await kept.request("GET", "/here")).status == 200
    refused = await server.connect()
    await refused.end()
    assert (await kept.request("GET", "/here")).status == 200
    await server.stop()
