# SPDX-License-Identifier: Apache-2.0
"""Which addresses are denied, in every disguise."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from homeserver.config.sections import PRIVATE_RANGES
from homeserver.outgoing import AddressPolicy

DEFAULT = AddressPolicy(deny=PRIVATE_RANGES)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.255.254",
        "10.1.2.3",
        "172.31.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "2606:4700::1%eth0",
        "fd00::1",
        "::ffff:127.0.0.1",  # mapped
        "::ffff:7f00:1",
        "::127.0.0.1",  # compatible
        "2002:7f00:1::",  # 6to4
        "2002:a00:1::5",
        "64:ff9b::127.0.0.1",  # NAT64
        "64:ff9b:1::a00:1",
        "2001:0:7f00:1::",  # Teredo, by its server
        "2001:0:808:808:0:0:80ff:fffe",  # Teredo, by its client 127.0.0.1, inverted
        "2606:4700::5efe:7f00:1",  # ISATAP
        "2606:4700::200:5efe:10.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "",
    ],
)
def test_advisory_07_denied(address: str) -> None:
    """Private addresses, what may lead to them, and what is no address."""
    assert not DEFAULT.permits(address)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "172.32.0.1",
        "2606:4700::1",
        "2002:808:808::1",
        "64:ff9b::8.8.8.8",
        "2001:0:808:808:0:0:f7f7:f7f7",
    ],
)
def test_permitted(address: str) -> None:
    """The public internet."""
    assert DEFAULT.permits(address)


def test_allowed_ranges_win() -> None:
    """An exception counts for its range, and for nothing that hides another address in it."""
    policy = AddressPolicy(
        deny=PRIVATE_RANGES, allow=(ip_network("10.0.0.0/24"), ip_network("2002::/16"), ip_network("::1/128"))
    )
    assert policy.permits("10.0.0.7")
    assert policy.permits("::1")
    assert policy.permits("2002:a00:7::1")
    assert not policy.permits("10.0.1.7")
    assert not policy.permits("2002:7f00:1::")


def test_without_ranges_everything_is_permitted() -> None:
    """Whoever empties deny_ip_ranges means it."""
    assert AddressPolicy().permits("127.0.0.1")
