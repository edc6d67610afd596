# SPDX-License-Identifier: Apache-2.0
"""The decision table of server discovery (server-server API, "Resolving server names")."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest

from federation.discovery.steps import (
    AskSrv,
    AskWellKnown,
    Found,
    Service,
    SrvRecord,
    Step,
    after_srv,
    after_well_known,
    begin,
    delegation_problem,
    in_order,
    without_srv,
)
from homeserver.outgoing import Target
from homeserver.protocol.errors import IdentifierError


@pytest.mark.parametrize(
    ("name", "step", "target"),
    [
        ("1.2.3.4", "1", ("1.2.3.4", 8448, "1.2.3.4", "1.2.3.4")),
        ("1.2.3.4:80", "1", ("1.2.3.4", 80, "1.2.3.4", "1.2.3.4:80")),
        ("[2001:db8::1]", "1", ("2001:db8::1", 8448, "2001:db8::1", "[2001:db8::1]")),
        ("[2001:DB8::1]:80", "1", ("2001:db8::1", 80, "2001:db8::1", "[2001:DB8::1]:80")),
        ("example.org:80", "2", ("example.org", 80, "example.org", "example.org:80")),
        ("Example.ORG.:80", "2", ("example.org", 80, "example.org", "Example.ORG.:80")),
    ],
)
def test_names_that_need_no_question(name: str, step: str, target: tuple[str, int, str, str]) -> None:
    """Steps 1 and 2: an address, or a port."""
    assert begin(name) == Found(Step(step), (Target(*target),))


@pytest.mark.parametrize(
    ("name", "hostname"), [("example.org", "example.org"), ("Example.ORG.", "example.org")]
)
def test_names_that_need_a_question(name: str, hostname: str) -> None:
    """Everything else is asked for its .well-known, as DNS writes it."""
    assert begin(name) == AskWellKnown(hostname)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        "example.org:0",
        "1.2.3.4:0",
        ".",
        "a/b",
        "[::1",
        "x" * 300,
        "a" * 250 + ":80000",
        "a" * 64 + ".org",
        "a..org",
        ".org",
    ],
)
def test_names_that_lead_nowhere(name: str) -> None:
    """No server name, or none anybody could connect to."""
    with pytest.raises(IdentifierError):
        begin(name)


@pytest.mark.parametrize(
    ("delegated", "step", "target"),
    [
        ("1.2.3.4", "3.1", ("1.2.3.4", 8448, "1.2.3.4", "1.2.3.4")),
        ("[::1]:80", "3.1", ("::1", 80, "::1", "[::1]:80")),
        ("m.example.net:443", "3.2", ("m.example.net", 443, "m.example.net", "m.example.net:443")),
    ],
)
def test_delegations_that_need_no_question(
    delegated: str, step: str, target: tuple[str, int, str, str]
) -> None:
    """Steps 3.1 and 3.2: name and Host header are the delegated ones."""
    assert after_well_known("example.org", delegated) == Found(Step(step), (Target(*target),))


RECORDS = [SrvRecord(0, 0, 1234, "a.example.net"), SrvRecord(1, 0, 5678, "b.example.net")]


@pytest.mark.parametrize(
    ("delegated", "service", "records", "step", "name"),
    [
        ("m.example.net", Service.CURRENT, RECORDS, "3.3", "m.example.net"),
        ("m.example.net", Service.DEPRECATED, RECORDS, "3.4", "m.example.net"),
        (None, Service.CURRENT, RECORDS, "4", "example.org"),
        (None, Service.DEPRECATED, RECORDS, "5", "example.org"),
    ],
)
def test_srv_records(
    delegated: str | None, service: Service, records: list[SrvRecord], step: str, name: str
) -> None:
    """Steps 3.3, 3.4, 4 and 5: connect to the record's host, but the certificate and the Host are the name's."""
    asked = after_well_known("example.org", delegated)
    assert asked == AskSrv(name, delegated is not None)
    assert isinstance(asked, AskSrv)
    targets = (Target("a.example.net", 1234, name, name), Target("b.example.net", 5678, name, name))
    assert after_srv(asked, service, records) == Found(Step(step), targets)
    assert after_srv(asked, service, []) is None


@pytest.mark.parametrize(
    ("delegated", "step", "name"), [("m.example.net", "3.5", "m.example.net"), (None, "6", "example.org")]
)
def test_the_default_port(delegated: str | None, step: str, name: str) -> None:
    """Steps 3.5 and 6."""
    asked = after_well_known("example.org", delegated)
    assert isinstance(asked, AskSrv)
    assert without_srv(asked) == Found(Step(step), (Target(name, 8448, name, name),))


def test_a_service_that_is_said_not_to_exist() -> None:
    """A record whose target is the root (RFC 2782) is an answer, and leads nowhere."""
    asked = AskSrv("example.org", delegated=False)
    assert after_srv(asked, Service.CURRENT, [SrvRecord(0, 0, 0, "")]) == Found(Step.SRV, ())


@pytest.mark.parametrize(
    "name",
    [
        None,
        7,
        ["example.org"],
        "",
        "a b",
        "example.org:0",
        "https://example.org",
        "x" * 256,
        "a..org",
        "a" * 64,
    ],
)
def test_delegations_that_do_not_count(name: object) -> None:
    """Their document is as good as none."""
    assert delegation_problem(name) is not None


def test_priority_comes_before_weight() -> None:
    """A lower priority is tried first, whatever the weights."""
    records = [SrvRecord(priority, weight, 1, "") for priority in (2, 0, 1) for weight in (0, 1000)]
    for seed in range(20):
        ordered = in_order(records, Random(seed).random)
        assert [record.priority for record in ordered] == [0, 0, 1, 1, 2, 2]
        assert sorted(ordered) == sorted(records)


def test_weights_are_shares() -> None:
    """Among equals, three times the weight is first three times as often; weight 0 is seldom, not never."""
    records = [SrvRecord(0, 30, 1, "heavy"), SrvRecord(0, 10, 2, "light"), SrvRecord(0, 0, 3, "spare")]
    draws = evenly(4100)
    first = Counter(in_order(records, lambda: next(draws))[0].host for _ in range(4100))
    assert first["heavy"] == pytest.approx(3000, abs=150)
    assert first["light"] == pytest.approx(1000, abs=150)
    assert 0 < first["spare"] < 250


def evenly(count: int) -> Iterator[float]:
    """Numbers spread over [0, 1), each third of them in order, so that first draws are even, too."""
    for number in range(count):
        yield number / count
        yield 0.5
        yield 0.0
