# SPDX-License-Identifier: Apache-2.0
"""A configuration file is read as meant, or refused with a sentence that names the key."""

from ipaddress import ip_network
from pathlib import Path

import pytest

from homeserver.config import Config, ConfigError, load, parse
from homeserver.config.loader import read_text, take_over
from homeserver.config.sections import Listener, Tls
from homeserver.config.units import Bytes, Seconds

FOLDER = Path("/etc/lares")
SECRET = "a secret of thirty-two characters"
RTC = f"{{livekit_url: 'wss://h', api_key: k, api_secret: {SECRET}}}"


def read(text: str) -> Config:
    """The configuration of YAML text in /etc/lares."""
    return parse(text, source="lares.yaml", folder=FOLDER)


def problems(text: str) -> tuple[str, ...]:
    """What is wrong with YAML text."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    return caught.value.problems


def test_no_file_means_a_closed_server_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defaults are the ones the README promises, with the data in the current folder."""
    monkeypatch.chdir(tmp_path)
    config = load(None)
    assert config.server_name == "localhost"
    assert config.base_url == "http://127.0.0.1:8008/"
    assert config.data_dir == tmp_path / "data"
    assert config.listeners == (Listener(),)
    assert config.database.url is None
    assert not config.registration.enabled
    assert config.registration.requires_token
    assert config.rooms.default_version == "12"
    assert config.memory_budget == 256 * 1024 * 1024
    assert ip_network("127.0.0.0/8") in config.federation.deny_ip_ranges


def test_every_fixed_key_is_read(tmp_path: Path) -> None:
    """The keys other people's harnesses write arrive where they belong; paths start from the file's folder."""
    for name in ("a.crt", "a.key", "bridge.yaml", "ca.pem"):
        (tmp_path / name).touch()
    file = tmp_path / "lares.yaml"
    file.write_text("""
server_name: example.org
public_baseurl: https://matrix.example.org
data_dir: kept
database: {url: "postgresql://u:p@localhost/lares"}
workers: 2
listeners:
  - {bind: 127.0.0.1, port: 8008, serves: [client, federation, media, admin, metrics]}
  - {bind: "::", port: 8448, serves: [federation], tls: {certificate: a.crt, private_key: a.key}}
registration: {enabled: true, requires_token: false, shared_secret: s3cret, allow_guests: true}
passwords: {argon2_time_cost: 1}
rate_limits: {enabled: false}
rooms: {default_version: "11", encrypted_by_default: off}
presence: {enabled: false}
appservices: [bridge.yaml]
federation:
  enabled: false
  verify_certificates: true
  ca_file: ca.pem
  deny_ip_ranges: [10.0.0.0/8]
  allow_ip_ranges: ["::1/128"]
""")
    config = load(file)
    assert (config.server_name, config.base_url) == ("example.org", "https://matrix.example.org/")
    assert config.data_dir == tmp_path / "kept"
    assert config.database.url == "postgresql://u:p@localhost/lares"
    assert config.workers == 2
    assert config.listeners[1] == Listener(
        bind="::",
        port=8448,
        serves=("federation",),
        tls=Tls(certificate=tmp_path / "a.crt", private_key=tmp_path / "a.key"),
    )
    assert config.registration.shared_secret == "s3cret"
    assert config.registration.allow_guests
    assert config.passwords.argon2_time_cost == 1
    assert not (config.rate_limits.enabled or config.presence.enabled or config.federation.enabled)
    assert config.rooms.default_version == "11"
    assert config.rooms.encrypted_by_default == "off"
    assert config.appservices == (tmp_path / "bridge.yaml",)
    assert config.federation.ca_file == tmp_path / "ca.pem"
    assert config.federation.deny_ip_ranges == (ip_network("10.0.0.0/8"),)
    assert config.federation.allow_ip_ranges == (ip_network("::1/128"),)
    written = read_text(file)
    # A parent of the release before hands over the text.
    for handed_over in (written.as_json(), written.text):
        assert take_over(handed_over, source=written.source, folder=written.folder) == config


def test_a_heading_with_nothing_beneath_it_means_the_defaults() -> None:
    """An administrator may comment out every key of a section."""
    assert read("registration:\ndatabase:\n") == read("")


def test_terms_take_the_shape_the_specification_presents() -> None:
    """Beside `version`, every key of a policy is a language."""
    config = read("""
registration:
  terms:
    privacy:
      version: "1.0"
      en: {name: Privacy, url: "https://example.org/en"}
      de: {name: Datenschutz, url: "https://example.org/de"}
""")
    policy = config.registration.terms["privacy"]
    assert policy.version == "1.0"
    assert {language: document.name for language, document in policy.languages.items()} == {
        "en": "Privacy",
        "de": "Datenschutz",
    }


def test_durations_and_sizes_are_read() -> None:
    """With a unit, or as plain seconds and bytes."""
    config = read("{sessions: {access_token_lifetime: 1h 30m}, memory_budget: 1GiB}")
    assert (config.sessions.access_token_lifetime, config.memory_budget) == (Seconds(5400), Bytes(2**30))
    config = read("{sessions: {access_token_lifetime: 90}, memory_budget: 33554432}")
    assert (config.sessions.access_token_lifetime, config.memory_budget) == (Seconds(90), Bytes(2**25))


def test_a_date_is_text() -> None:
    """YAML's dates would surprise whoever versions a policy by one."""
    config = read("registration: {terms: {p: {version: 2026-01-31, en: {name: N, url: 'https://e.org'}}}}")
    assert config.registration.terms["p"].version == "2026-01-31"


def test_secrets_stay_out_of_repr() -> None:
    """A logged configuration gives nothing away."""
    text = repr(read("{registration: {shared_secret: hush}, database: {url: 'postgresql://u:hush@h/d'}}"))
    assert "hush" not in text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("server_nam: x", "server_nam: there is no such key; did you mean server_name?"),
        (
            "registration: {enabeld: true}",
            "registration.enabeld: there is no such key; did you mean enabled?",
        ),
        ("presence: {zzz: 1}", "presence.zzz: there is no such key; the keys here are enabled"),
        ("listeners: [{prot: 1}]", "listeners[0].prot: there is no such key; did you mean port?"),
        ("workers: many", "workers: expected a whole number, found 'many'"),
        ("workers: true", "workers: expected a whole number, found true"),
        ("workers: 0", "workers: must be at least 1; it is 0"),
        ("presence: {enabled: 1}", "presence.enabled: expected true or false, found 1"),
        ("rooms: {default_version: 12}", "rooms.default_version: expected text, found 12; put it in quotes"),
        ("presence: true", "presence: expected a mapping of keys to values, found true"),
        ("listeners: {port: 1}", "listeners: expected a list, found a mapping"),
        ("appservices: [7]", "appservices[0]: expected a path, found 7"),
        (
            "memory_budget: 3 apples",
            "memory_budget: expected a size such as 512KiB or 256MiB, found '3 apples'",
        ),
        ("- 1", "the file: expected a mapping of keys to values, found a list"),
        ("data_dir: null", "data_dir: expected a path, found nothing"),
        ("logging: {format: xml}", "logging.format: expected one of text, json, found 'xml'"),
        ("listeners: [{serves: [client, [x]]}]", "listeners[0].serves[1]: expected one of"),
        ("listeners: [{tls: {certificate: a}}]", "listeners[0].tls.private_key: must be given"),
        ("listeners: []", "listeners: must not be empty"),
        ("listeners: [{port: 70000}]", "listeners[0].port: must be a port from 0 to 65535"),
        (
            "federation: {deny_ip_ranges: [10.0.0.1/8]}",
            "federation.deny_ip_ranges[0]: expected an address range",
        ),
        ("server_name: https://example.org", "server_name: must be a name such as example.org, not a URL"),
        ("server_name: Example.org", "server_name: must be written in lower case"),
        ("server_name: under_score.org", "server_name: must be a DNS name"),
        ("server_name: a..b", "server_name: must be a DNS name"),
        ("server_name: 'example.org:99999'", "server_name: must be a DNS name"),
        ("public_baseurl: matrix.example.org", "public_baseurl: must be a URL that starts with https://"),
        ("public_baseurl: 'https://e.org/?q'", "public_baseurl: must be a URL without"),
        ("public_baseurl: 'https://e.org:port/'", "public_baseurl: must be a URL: "),
        ("database: {url: 'mysql://x'}", "database.url: must be a URL such as postgresql://"),
        ("rooms: {default_version: '99'}", "rooms.default_version: must be one of the room versions 1, 2"),
        (
            "well_known: {contacts: [{role: m.role.boss}]}",
            "well_known.contacts[0].role: must be m.role.admin",
        ),
        (
            "server_name: a.org\nserver_name: b.org",
            "is not valid YAML: line 2, column 1: the key 'server_name'",
        ),
        ("presence: {enabled: true", "is not valid YAML: line 1"),
        ("workers: !!python/object:os.system 1", "is not valid YAML: "),
        ("registration: {terms: {no: {version: a}}}", "registration.terms: the key false must be text"),
        ("registration: {terms: {p: {version: a}}}", "registration.terms.p: needs at least one language"),
        ("listeners: [{}, {}]", "listeners[1]: listeners[0] already takes 127.0.0.1 port 8008"),
        ("listeners: [{serves: [metrics]}]", "listeners: none serves client"),
        (
            "well_known: {client: {m.homeserver: {}}}",
            "well_known.client.m.homeserver: comes from public_baseurl",
        ),
        (
            "well_known: {client: {m.rtc_foci: [], org.matrix.msc4143.rtc_foci: []}}",
            "well_known.client: m.rtc_foci and org.matrix.msc4143.rtc_foci are one key",
        ),
        (
            "well_known: {contacts: [{role: m.role.admin}]}",
            "well_known.contacts[0]: needs matrix_id or email",
        ),
        (
            "turn: {uris: [turn.example.org], shared_secret: s}",
            "turn.uris: must be URIs such as turn:turn.example.org, turns:turn.example.org:443?transport=tcp or ",
        ),
        ("turn: {uris: ['turn:h:99999'], shared_secret: s}", "turn.uris: must be URIs such as turn:"),
        ("turn: {uris: ['turn:h?transport=sctp'], shared_secret: s}", "turn.uris: must be URIs such as"),
        ("turn: {uris: ['turn://h'], shared_secret: s}", "turn.uris: must be URIs such as turn:"),
        ("turn: {uris: ['stun:h?transport=udp']}", "turn.uris: must be URIs such as turn:"),
        ("turn: {uris: ['turn:h']}", "turn.shared_secret: must be given, or no client could use"),
        ("turn: {uris: ['turns:h'], username: u}", "turn.password: must be given, too"),
        ("turn: {uris: ['turn:h'], password: p}", "turn.username: must be given, too"),
        (
            "turn: {uris: ['turn:h'], shared_secret: s, username: u, password: p}",
            "turn.username: turn.shared_secret makes the credentials",
        ),
        ("turn: {uris: ['stun:h'], shared_secret: s}", "turn.uris: must name a turn: or turns: URI"),
        ("turn: {shared_secret: s}", "turn.uris: must name a turn: or turns: URI"),
        ("turn: {uris: ['turn:h'], shared_secret: ''}", "turn.shared_secret: must not be empty"),
        (
            "turn: {uris: ['turn:h'], shared_secret: s, shared_secret_file: /dev/null}",
            "turn.shared_secret_file: turn.shared_secret is given, too",
        ),
        (
            "turn: {uris: ['turn:h'], shared_secret_file: none}",
            "turn.shared_secret_file: cannot read /etc/lares/none: No such file",
        ),
        (
            "turn: {uris: ['turn:h'], shared_secret: s, credential_lifetime: 10s}",
            "turn.credential_lifetime: must be at least 60",
        ),
        (
            "rtc: {livekit_url: 'wss://h', api_key: k, api_secret: s3cret}",
            "rtc.api_secret: must have at least 32 characters",
        ),
        (
            "rtc: {livekit_url: 'https://h', api_key: k, api_secret: a secret of thirty-two characters}",
            "rtc.livekit_url: must be a URL that starts with wss:// or ws://",
        ),
        (
            "rtc: {livekit_url: 'wss://', api_key: k, api_secret: a secret of thirty-two characters}",
            "rtc.livekit_url: must be a URL that",
        ),
        ("rtc: {livekit_url: 'wss://h', api_key: k}", "rtc.api_secret: must be given, too"),
        (
            "rtc: {api_key: k, api_secret: a secret of thirty-two characters}",
            "rtc.livekit_url: must be given, too",
        ),
        ("rtc: {full_access_servers: [a.org]}", "rtc.livekit_url: must be given, or the other keys"),
        (
            f"rtc: {{livekit_url: 'wss://h', api_key: k, api_secret: {SECRET}, api_secret_file: /dev/null}}",
            "rtc.api_secret_file: rtc.api_secret is given, too",
        ),
        (
            f"rtc: {RTC}\nwell_known: {{client: {{m.rtc_foci: []}}}}",
            "well_known.client.m.rtc_foci: comes from rtc.livekit_url",
        ),
        ("appservices: [none.yaml]", "appservices[0]: cannot read /etc/lares/none.yaml: No such file"),
        (
            "federation: {ca_file: /dev/null, verify_certificates: false}",
            "federation.ca_file: means nothing while federation.verify_certificates is false",
        ),
    ],
)
def test_a_wrong_key_is_refused_by_name(text: str, problem: str) -> None:
    """One mistake gives one sentence, which opens with where it is."""
    found = problems(text)
    assert len(found) == 1
    assert found[0].startswith(problem)


def test_a_wrong_secret_is_not_repeated() -> None:
    """What is printed at a failed start ends up in logs."""
    (problem,) = problems("rtc: {livekit_url: 'wss://h', api_key: k, api_secret: s3cret}")
    assert "s3cret" not in problem


def test_all_mistakes_are_told_at_once() -> None:
    """Nobody starts the server four times to find four typing errors."""
    assert len(problems("{workers: x, presense: {}, rooms: {default_version: 11}, memory_budget: 1}")) == 4


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Neither a missing file nor one in another encoding is a traceback."""
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        load(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"server_name: \xe4")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("text", "base_url", "delegated"),
    [
        ("server_name: localhost", "http://127.0.0.1:8008/", None),
        ("server_name: 'localhost:8448'", "http://127.0.0.1:8008/", None),
        ("server_name: '[::1]:8448'\nlisteners: [{bind: '::', port: 9}]", "http://[::1]:9/", None),
        ("listeners: [{serves: [metrics], port: 1}, {bind: 0.0.0.0, port: 2}]", "http://127.0.0.1:2/", None),
        ("server_name: example.org", "https://example.org/", "example.org:443"),
        (
            "public_baseurl: 'https://m.example.org:444/x/'",
            "https://m.example.org:444/x/",
            "m.example.org:444",
        ),
        (
            "{server_name: example.org, well_known: {server: 'f.example.org:8448'}}",
            "https://example.org/",
            "f.example.org:8448",
        ),
        ("{server_name: example.org, federation: {enabled: false}}", "https://example.org/", None),
    ],
)
def test_discovery_follows_from_the_name_and_the_base_url(
    text: str, base_url: str, delegated: str | None
) -> None:
    """What the well-known documents say where an administrator said nothing."""
    config = read(text)
    assert (config.base_url, config.delegated_server) == (base_url, delegated)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{notaries: [example.org, example.org]}", "must name each server once"),
        ("{notaries: [https://example.org]}", "must be server names such as example.org"),
        ("{notaries: [us.test]}", "names this server itself"),
        ("{old_keys: [{key_id: 'ed25519:a', key: AAAA, expired_ts: 5}]}", "must be an Ed25519 public key"),
        ("{old_keys: [{key_id: 'a', key: %s, expired_ts: 5}]}", "must be a key id such as ed25519:a_AbCdEf"),
        ("{old_keys: [{key_id: 'rsa:a', key: %s, expired_ts: 5}]}", "must begin with ed25519:"),
        ("{old_keys: [{key_id: 'ed25519:a', key: %s, expired_ts: -5}]}", "must be at least 0"),
        ("{old_keys: [{key_id: 'ed25519:a', key: %s}]}", "must be given"),
        (
            (
                "{old_keys: [{key_id: 'ed25519:a', key: %s, expired_ts: 5},"
                " {key_id: 'ed25519:a', key: %s, expired_ts: 6}]}"
            ),
            "names a key id twice",
        ),
    ],
)
def test_notaries_and_old_keys_are_checked(text: str, sentence: str) -> None:
    """What other servers would only stumble over later is said at once."""
    key = "l8Hft5qXKn1vfHrg3p4+W8gELQVo8N13JkluMfmn2sQ"
    found = problems("server_name: us.test\nfederation: " + text.replace("%s", key))
    assert sentence in found[0]
