# SPDX-License-Identifier: Apache-2.0
"""`lares doctor` finds what is wrong with a server, over real TLS on loopback, and says what to change."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.utils import getProcessOutputAndValue

from federation.discovery import make_discovery
from federation.doctor import Examiner, Own, Report, Severity
from homeserver.outgoing import AddressPolicy, Connector, OutgoingClient, TlsPolicy
from homeserver.outgoing.inspection import Inspector
from homeserver.protocol.signing import SigningKey, sign_json
from homeserver.protocol.unpadded_base64 import encode_base64
from tests.federation.certificates import CertificateAuthority, Leaf
from tests.outgoing.conftest import Serve
from tests.outgoing.servers import LOOPBACK, Link, Names, Server, answer, closed_port
from tests.reactor import reactor

run_process: Any = getProcessOutputAndValue
SEED = bytes(range(32))
KEY = SigningKey.from_seed("ed25519:a_one", SEED)
OTHER_KEY = SigningKey.from_seed("ed25519:a_one", bytes(32))
DAY = timedelta(days=1)


@dataclass
class Homeserver:
    """What a server answers; a test breaks what it wants broken."""

    name: str = ""
    key: SigningKey = KEY
    signer: SigningKey = KEY
    valid_until: datetime = field(default_factory=lambda: datetime.now(UTC) + DAY)
    clock_ahead: timedelta = timedelta()
    paths: Mapping[str, bytes] = field(default_factory=dict)

    def script(self, link: Link, head: str) -> None:
        path = head.split(" ")[1]
        if path in self.paths:
            link.send(self.paths[path])
            return
        document: Any = {"server": {"name": "Test", "version": "1.0\x1b[31m"}}
        if path == "/_matrix/key/v2/server":
            document = self.key_document()
        date = format_datetime(datetime.now(UTC) + self.clock_ahead, usegmt=True)
        link.send(answer(json.dumps(document).encode(), Date=date))

    def key_document(self) -> dict[str, Any]:
        document = {
            "server_name": self.name,
            "verify_keys": {self.key.key_id: {"key": self.key.verify_key.to_base64()}},
            "old_verify_keys": {},
            "valid_until_ts": int(self.valid_until.timestamp() * 1000),
        }
        return sign_json(document, self.name, self.signer)


class Examination:
    """Examines servers that trust the test's authority."""

    def __init__(self, authority: CertificateAuthority, own: Own, names: Mapping[str, Sequence[str]]) -> None:
        resolver = Names(names)
        policy = AddressPolicy(deny=(), allow=LOOPBACK)
        tls = TlsPolicy(ca_file=authority.ca_file)
        self.client = OutgoingClient(
            reactor,
            connector=Connector(reactor, resolver=resolver, tls=tls),
            policy=policy,
            user_agent="test",
        )
        self.examiner = Examiner(
            discovery=make_discovery(reactor, self.client, name_servers=list),
            client=self.client,
            inspector=Inspector(reactor, resolver=resolver, policy=policy),
            own=own,
            now=lambda: datetime.now(UTC),
        )


@pytest.fixture
def examine(authority: CertificateAuthority) -> Iterator[Any]:
    """`await examine(server_name, own=…, names=…)` gives the report."""
    made: list[Examination] = []

    async def examine(
        server_name: str, own: Own | None = None, names: Mapping[str, Sequence[str]] | None = None
    ) -> Report:
        made.append(Examination(authority, own or Own("other.example", {}), names or {}))
        return await made[-1].examiner.examine(server_name)

    yield examine
    for each in made:
        each.client.close()


def problems(report: Report) -> list[str]:
    """The sentences about problems, each of which must come with advice."""
    found = [each for part in report.parts for each in part.findings if each.severity is Severity.PROBLEM]
    assert all(each.advice for each in found)
    return [each.text for each in found]


def start(serve: Serve, homeserver: Homeserver, leaf: Leaf) -> Server:
    server = serve(homeserver.script, leaf)
    homeserver.name = homeserver.name or f"127.0.0.1:{server.port}"
    return server


async def test_a_sound_server_has_no_problem(
    serve: Serve, authority: CertificateAuthority, examine: Any
) -> None:
    """And the report says what it found, without what a terminal would obey."""
    homeserver = Homeserver()
    start(serve, homeserver, authority.issue("127.0.0.1"))
    report = await examine(homeserver.name)
    assert problems(report) == []
    text = report.as_text()
    assert "It runs Test 1.0" in text
    assert "\x1b" not in text
    assert KEY.verify_key.to_base64() in text
    assert text.endswith(f"No problem found with {homeserver.name}.")
    assert json.loads(json.dumps(report.as_dict()))["problems"] == 0


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Homeserver(name="wrong.example"), "The keys are those of 'wrong.example'"),
        (Homeserver(signer=OTHER_KEY), "not signed by ed25519:a_one"),
        (Homeserver(valid_until=datetime.now(UTC) - DAY), "no longer valid"),
        (Homeserver(clock_ahead=timedelta(minutes=5)), "seconds ahead of"),
        (Homeserver(clock_ahead=-timedelta(minutes=5)), "seconds behind"),
        (Homeserver(paths={"/_matrix/key/v2/server": answer(b"", "404 Not Found")}), "HTTP 404 and no keys"),
        (Homeserver(paths={"/_matrix/key/v2/server": answer(b"[" * 100_000)}), "HTTP 200 and no keys"),
        (Homeserver(paths={"/_matrix/federation/v1/version": answer(b"<html>")}), "HTTP 200 and no version"),
        (Homeserver(paths={"/_matrix/federation/v1/version": b"SSH-2.0\r\n\r\n"}), "It does not answer"),
    ],
)
async def test_what_is_wrong_is_said(
    serve: Serve, authority: CertificateAuthority, examine: Any, broken: Homeserver, words: str
) -> None:
    """One problem, with what to change."""
    server = start(serve, broken, authority.issue("127.0.0.1"))
    found = problems(await examine(f"127.0.0.1:{server.port}"))
    assert len(found) == 1
    assert words in found[0]


async def test_certificates_are_looked_at(
    serve: Serve, authority: CertificateAuthority, examine: Any, tmp_path: Path
) -> None:
    """Names, time and trust, also of those that are refused."""
    stranger = CertificateAuthority(tmp_path)
    cases = {
        "is not for 127.0.0.1": authority.issue("example.org"),
        "it has expired": authority.issue("127.0.0.1", starts=-3 * DAY, ends=-2 * DAY),
        "it is self-signed": authority.self_signed("127.0.0.1"),
        "not trusted": stranger.issue("127.0.0.1"),
        "ends in 4 days": authority.issue("127.0.0.1", ends=5 * DAY),
    }
    for words, leaf in cases.items():
        homeserver = Homeserver()
        server = start(serve, homeserver, leaf)
        report = await examine(f"127.0.0.1:{server.port}")
        assert words in " ".join(problems(report))
        assert "The certificate is for" in report.as_text()


async def test_nobody_there(examine: Any) -> None:
    """A closed port, a name without address, and what is no name."""
    with closed_port() as port:
        assert "No encrypted connection" in problems(await examine(f"127.0.0.1:{port}"))[0]
    assert "has no address" in problems(await examine("nowhere.example:1"))[0]
    assert "not a server name" in problems(await examine("no name"))[0]


async def test_every_address_is_asked(serve: Serve, authority: CertificateAuthority, examine: Any) -> None:
    """One good address does not hide a bad one, nor another server behind it."""
    homeserver = Homeserver()
    server = start(serve, homeserver, authority.issue("example.org"))
    homeserver.name = f"example.org:{server.port}"
    report = await examine(homeserver.name, names={"example.org": ["127.0.0.1", "127.0.0.2", "::1"]})
    titles = [part.title for part in report.parts]
    assert titles[1:] == [
        f"example.org port {server.port}, at {each}" for each in ("127.0.0.1", "127.0.0.2", "[::1]")
    ]
    assert len(problems(report)) == 2


async def test_our_own_name_must_lead_to_us(
    serve: Serve, authority: CertificateAuthority, examine: Any
) -> None:
    """Our key there: fine; another key: somebody else is found in our place."""
    homeserver = Homeserver()
    start(serve, homeserver, authority.issue("127.0.0.1"))
    ours = Own(homeserver.name, {KEY.key_id: KEY.verify_key})
    report = await examine(homeserver.name, ours)
    assert problems(report) == []
    assert "It is this server" in report.as_text()
    others = Own(homeserver.name, {OTHER_KEY.key_id: OTHER_KEY.verify_key})
    assert "It is not this server" in problems(await examine(homeserver.name, others))[0]
    keyless = await examine(homeserver.name, Own(homeserver.name, {}))
    assert "cannot be told" in keyless.as_text()


@pytest.mark.parametrize(("key", "code"), [(KEY, 0), (OTHER_KEY, 1)])
async def test_the_command(
    serve: Serve, authority: CertificateAuthority, tmp_path: Path, key: SigningKey, code: int
) -> None:
    """`lares doctor` examines the configured server, ends with 1 on problems, and makes no file."""
    homeserver = Homeserver(key=key, signer=key)
    start(serve, homeserver, authority.issue("127.0.0.1"))
    config = tmp_path / "lares.yaml"
    settings = {
        "server_name": homeserver.name,
        "data_dir": str(tmp_path / "data"),
        "federation": {"ca_file": str(authority.ca_file), "allow_ip_ranges": ["127.0.0.0/8"]},
    }
    config.write_text(json.dumps(settings))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/signing.key").write_text(f"ed25519 a_one {encode_base64(SEED)}\n")
    for options in ([], ["--json"]):
        arguments = ["-m", "homeserver.cli", "doctor", "--config", str(config), *options]
        output, errors, exit_code = await run_process(sys.executable, arguments, reactor=reactor)
        assert (errors, exit_code) == (b"", code)
        if options:
            assert json.loads(output)["problems"] == code
        else:
            assert ("It is this server" in output.decode()) is (code == 0)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["signing.key"]
