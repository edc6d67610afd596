# SPDX-License-Identifier: Apache-2.0
"""The client keeps to the configuration, and counts what it does."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from homeserver import outgoing
from homeserver.config import StartRefused
from homeserver.config.sections import Federation
from homeserver.outgoing import Caps
from homeserver.outgoing.errors import AddressDenied, CertificateRefused
from tests.federation.certificates import CertificateAuthority
from tests.outgoing.conftest import Serve
from tests.outgoing.servers import always, answer
from tests.reactor import reactor

CAPS = Caps(max_size=100)


async def test_private_addresses_and_strangers_are_refused_by_default(
    serve: Serve, authority: CertificateAuthority
) -> None:
    """Until the configuration says otherwise, each of them."""
    server = serve(always(answer(b"ok")), authority.issue("localhost"))
    target = server.target("localhost", host="localhost")
    allow = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    for config, refusal in (
        (Federation(), AddressDenied),
        (Federation(allow_ip_ranges=allow), CertificateRefused),
        (Federation(deny_ip_ranges=()), CertificateRefused),
        (Federation(allow_ip_ranges=allow, ca_file=authority.ca_file), None),
        (Federation(allow_ip_ranges=allow, verify_certificates=False), None),
    ):
        client = outgoing.make_client(reactor, config)
        if refusal is None:
            response = await client.request("GET", target, "/", caps=CAPS, purpose="test")
            assert response.body == b"ok"
            assert server.requests[-1][0].count("User-Agent: Lares/") == 1
        else:
            with pytest.raises(refusal):
                await client.request("GET", target, "/", caps=CAPS, purpose="test")
        client.close()


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_file_without_certificates_refuses_the_start(tmp_path: Path, content: str | None) -> None:
    """In one sentence with the key's name."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(StartRefused, match=r"federation\.ca_file"):
        outgoing.make_client(reactor, Federation(ca_file=file))


async def test_requests_are_counted(serve: Serve) -> None:
    """By purpose and outcome, for Prometheus."""
    server = serve(always(answer(b"", "404 Not Found")))
    client = outgoing.make_client(reactor, Federation(allow_ip_ranges=(ip_network("127.0.0.0/8"),)))
    await client.request("GET", server.target(), "/", caps=CAPS, purpose="test")
    with pytest.raises(AddressDenied):
        await client.fetch("http://10.0.0.1/", caps=CAPS, purpose="test")
    registry = CollectorRegistry()
    registry.register(client.metrics)
    text = generate_latest(registry).decode()
    assert 'lares_outgoing_requests_total{outcome="4xx",purpose="test"} 1.0' in text
    assert 'lares_outgoing_requests_total{outcome="denied",purpose="test"} 1.0' in text
    assert 'lares_outgoing_connections{state="idle"} 1.0' in text
    client.close()
