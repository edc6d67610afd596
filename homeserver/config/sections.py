# SPDX-License-Identifier: Apache-2.0
"""The configuration, key by key: types, defaults, and the text an administrator reads about each.

Owns which keys exist. The file is read by `loader`, checked value by value with `values` and as a whole in
`checks`; `example` prints these declarations as config.example.yaml. A component is given the section it
uses, never the whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from immutables import Map

from homeserver.config import values
from homeserver.config.call_sections import Rtc, Turn
from homeserver.config.echo_sections import Calls
from homeserver.config.option import option, rest, section
from homeserver.config.server_name import is_local
from homeserver.config.units import Bytes, Seconds

Network = IPv4Network | IPv6Network
Resource = Literal["client", "federation", "media", "admin", "metrics"]

RESOURCES: Final[tuple[Resource, ...]] = ("client", "federation", "media", "admin", "metrics")

# Every range that is not the public internet (the IANA special-purpose registries), so that a remote user
# cannot make this server knock on doors of its own network.
PRIVATE_RANGES: Final[tuple[Network, ...]] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/128",
        "::1/128",
        "::ffff:0:0/96",
        "64:ff9b:1::/48",
        "100::/64",
        "2001:db8::/32",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """Which Postgres the server keeps everything in."""

    url: str | None = option(
        default=None,
        check=values.postgres_url,
        secret=True,
        doc="The Postgres to use. null: the server runs a private Postgres of its own under data_dir.",
        example='"postgresql://lares:secret@localhost:5432/lares"',
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Certificate and key of a listener, both in PEM files."""

    certificate: Path = option(doc="The certificate, followed by those between it and the root.")
    private_key: Path = option(doc="The private key of the certificate.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One address the server accepts connections on."""

    bind: str = option(default="127.0.0.1", check=values.not_empty, doc="Address to listen on.")
    port: int = option(default=8008, check=values.port, doc="Port to listen on; 0 takes a free one.")
    serves: tuple[Resource, ...] = option(
        default=RESOURCES, check=values.not_empty, doc="What is answered there."
    )
    tls: Tls | None = option(default=None, doc="Certificate and key; null: plain HTTP.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyDocument:
    """A policy in one language."""

    name: str = option(check=values.not_empty, doc="The title a person reads.")
    url: str = option(check=values.web_page, doc="Where the text is.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A document new users must accept; shaped as `m.login.terms` presents it."""

    version: str = option(check=values.not_empty, doc="Which edition of the document this is.")
    languages: Mapping[str, PolicyDocument] = rest(doc="Language code → name and url.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """Who may make an account."""

    enabled: bool = option(default=False, doc="Whether people may register themselves.")
    requires_token: bool = option(
        default=True, doc="Whether self-registration asks for a registration token; false opens it to anyone."
    )
    shared_secret: str | None = option(
        default=None,
        check=values.not_empty,
        secret=True,
        doc="Who knows it may register users and admins through /_synapse/admin/v1/register, as "
        "`lares register-user` does. null: the server makes one, in data_dir/registration_secret.",
    )
    allow_guests: bool = option(default=False, doc="Whether guest accounts may be made without a password.")
    terms: Mapping[str, Policy] = option(
        default=Map(),
        doc="Documents that must be accepted to register.",
        example="""\
privacy_policy:
  version: "1.0"
  en: {name: Privacy policy, url: https://example.org/privacy.html}""",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Passwords:
    """How passwords are stored."""

    argon2_time_cost: int = option(
        default=3,
        check=values.at_least(1),
        doc="Passes of Argon2id per password: what a guess costs an attacker, and a log-in costs the server.",
    )
    argon2_memory: Bytes = option(
        default=Bytes(32 * 2**20),
        check=values.at_least(2**20),
        doc="Memory that Argon2id fills per password; each process works on two at once at most.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """How long access tokens live."""

    access_token_lifetime: Seconds = option(
        default=Seconds(3600),
        check=values.at_least(1),
        doc="How long an access token lives that its client can refresh; other tokens live until log-out.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """Brakes on what one user or address may ask for."""

    enabled: bool = option(default=True, doc="Whether requests are limited per user and per address.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """What rooms are made of."""

    default_version: str = option(
        default="12", check=values.room_version, doc="The room version of new rooms, in quotes."
    )
    encrypted_by_default: Literal["private", "all", "off"] = option(
        default="private",
        doc="Which new rooms are end-to-end encrypted although their creator did not ask for it: private ones, all, "
        "or none (off). Clients are told, and do likewise. Spaces and rooms that application services "
        "make are left alone, and so is a room whose creator says otherwise.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomDirectory:
    """The public list of rooms."""

    publication: Literal["members", "admins", "nobody"] = option(
        default="members",
        doc="Who may put a room on the public list: members of the room with the power to set its canonical "
        "alias, only this server's admins, or nobody.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UserDirectory:
    """The search for users."""

    search_all: bool = option(
        default=False,
        doc="Whether a search finds every user of this server, or only those who share a room with the "
        "searcher or are in a public room.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """Who is online."""

    enabled: bool = option(default=True, doc="Whether the server keeps and passes on who is online.")


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayedEvents:
    """Events that are sent later, by which group calls notice that somebody's device is gone."""

    max_delay: Seconds = option(
        default=Seconds(86_400), check=values.at_least(1), doc="The longest delay that may be asked for."
    )
    max_per_user: int = option(
        default=100,
        check=values.at_least(0),
        doc="How many a user may have waiting at once; 0 forbids them, and with them reliable group calls.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """Someone to turn to about this server; at least one of the two addresses."""

    role: str = option(check=values.contact_role, doc="m.role.admin, m.role.security or a name of your own.")
    matrix_id: str | None = option(default=None, check=values.user_id, doc="A Matrix user id.")
    email_address: str | None = option(default=None, check=values.email_address, doc="An email address.")


@dataclass(frozen=True, slots=True, kw_only=True)
class WellKnown:
    """What /.well-known/matrix/{client,server,support} say besides the base URL."""

    server: str | None = option(
        default=None,
        check=values.server_name,
        doc="host:port where other servers find this one. null: taken from public_baseurl, if https.",
        example='"matrix.example.org:443"',
    )
    client: Mapping[str, object] = option(
        default=Map(),
        doc="Further keys of the client document, sent as they are.",
        example="{io.element.call_behaviour: {ignore_dm: true}}",
    )
    contacts: tuple[Contact, ...] = option(
        default=(),
        doc="Contacts of the support document.",
        example='[{role: m.role.admin, matrix_id: "@admin:example.org", email_address: admin@example.org}]',
    )
    support_page: str | None = option(
        default=None,
        check=values.web_page,
        doc="A web page with help for this server's users.",
        example="https://example.org/support.html",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Logging:
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = option(
        default="info", doc="The least severity that is written."
    )
    format: Literal["text", "json"] = option(
        default="text", doc="text for people, json (an object per line) for machines."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Upper bounds on what a request may bring, and on what the process may have open."""

    max_request_body: Bytes = option(
        default=Bytes(8 * 2**20),
        check=values.at_least(65536),
        doc="The largest request body; a larger one is answered 413 M_TOO_LARGE. A full transaction of "
        "another server (50 events of 64 KiB and what comes with them) must fit. Clients may bring at most "
        "2 MiB of it, 64 KiB where nobody is logged in.",
    )
    open_files: int = option(
        default=65536,
        check=values.at_least(256),
        doc="How many files and connections the process may have open, if the system's hard limit (ulimit -Hn) "
        "allows as many. What the database and requests to other servers do not need is for clients, up to 10,000.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """Files that people send, and pictures of theirs."""

    max_upload_size: Bytes = option(
        default=Bytes(100 * 2**20),
        check=values.at_least(2**20),
        doc="The largest file that is taken from users, or from other servers for them. A proxy in front of the server "
        "must let as much through.",
    )
    user_quota: Bytes = option(
        default=Bytes(20 * 2**30),
        check=values.at_least(2**20),
        doc="What all uploads of one user may hold.",
    )
    remote_cache: Bytes = option(
        default=Bytes(10 * 2**30),
        check=values.at_least(0),
        doc="What files of other servers may hold here. Beyond it the longest unread go; they are fetched again when "
        "somebody wants them.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OldSigningKey:
    """A key this server used to sign with."""

    key_id: str = option(check=values.signing_key_id, doc="Its id, such as ed25519:a_AbCdEf.")
    key: str = option(check=values.verify_key, doc="Its public half, in Base64.")
    expired_ts: int = option(
        check=values.at_least(0), doc="When it was last used, in milliseconds since 1970."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """How the server meets other servers."""

    enabled: bool = option(default=True, doc="Whether the server talks to other servers at all.")
    verify_certificates: bool = option(
        default=True, doc="Whether other servers must prove who they are; false only for tests."
    )
    ca_file: Path | None = option(
        default=None, doc="Certificate authorities to trust, as PEM. null: those of the system."
    )
    deny_ip_ranges: tuple[Network, ...] = option(
        default=PRIVATE_RANGES,
        doc="Addresses no outgoing request of the server may reach (federation, push, previews, …).",
    )
    allow_ip_ranges: tuple[Network, ...] = option(
        default=(), doc="Addresses outgoing requests may reach although deny_ip_ranges holds them."
    )
    notaries: tuple[str, ...] = option(
        default=(),
        check=values.server_names,
        doc="Servers asked for the signing keys of others that do not answer themselves, in this order. They are "
        "believed about servers nobody here has met; without one, events of servers that are gone cannot be "
        "checked, of which large old rooms have many.",
        example="[matrix.org]",
    )
    old_keys: tuple[OldSigningKey, ...] = option(
        default=(),
        doc="Public keys this server used to sign with. Others need them to check what it signed then; so put a key "
        "here when you replace signing.key.",
        example="""\
- {key_id: "ed25519:a_AbCdEf", key: "l8Hft5qXKn1vfHrg3p4+W8gELQVo8N13JkluMfmn2sQ", expired_ts: 1767225600000}""",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration, complete and checked. Paths are absolute when it comes from `loader`."""

    server_name: str = option(
        default="localhost",
        check=values.server_name,
        doc="The name behind the colon of every user (@alice:example.org). It can never be changed.",
    )
    public_baseurl: str | None = option(
        default=None,
        check=values.http_url,
        doc="Where clients reach this server. null: https://<server_name>/ (localhost: the first listener).",
        example="https://matrix.example.org/",
    )
    data_dir: Path = option(
        default=Path("data"), doc="The folder of everything that is kept: signing key, database, media."
    )
    database: Database = section(Database, doc="The database.")
    workers: int = option(
        default=1,
        check=values.at_least(1),
        doc="How many equal processes serve; one per core is plenty. Above 1 a small parent looks after them, and "
        "SIGHUP replaces them one by one.",
    )
    listeners: tuple[Listener, ...] = option(
        default=(Listener(),),
        check=values.not_empty,
        doc="Where the server accepts connections, and what it answers there: client, federation, media, "
        "admin, metrics.",
        example="""\
- {bind: "::", port: 8448, serves: [client, federation], tls: {certificate: a.crt, private_key: a.key}}""",
    )
    trusted_proxies: tuple[Network, ...] = option(
        default=(),
        doc="Addresses of reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, besides "
        "those of this machine.",
        example="[10.0.0.5/32]",
    )
    registration: Registration = section(Registration, doc="Who may make an account.")
    passwords: Passwords = section(Passwords, doc="How passwords are stored.")
    sessions: Sessions = section(Sessions, doc="How long log-ins live.")
    rate_limits: RateLimits = section(RateLimits, doc="Brakes on what one user or address may ask for.")
    limits: Limits = section(Limits, doc="Upper bounds on what a request may bring.")
    media: Media = section(Media, doc="Files that people send.")
    rooms: Rooms = section(Rooms, doc="Rooms made here.")
    room_directory: RoomDirectory = section(RoomDirectory, doc="The public list of rooms.")
    user_directory: UserDirectory = section(UserDirectory, doc="The search for users.")
    presence: Presence = section(Presence, doc="Who is online.")
    delayed_events: DelayedEvents = section(DelayedEvents, doc="Events that are sent later.")
    turn: Turn = section(
        Turn, doc="Calls between two people: the server that relays what cannot go directly."
    )
    calls: Calls = section(Calls, doc="Calls: trying whether they work.")
    rtc: Rtc = section(Rtc, doc="Calls between many: the LiveKit server they meet on.")
    appservices: tuple[Path, ...] = option(
        default=(),
        doc="Registration files of bridges and other application services.",
        example="[bridge.yaml]",
    )
    well_known: WellKnown = section(
        WellKnown, doc="What clients and servers discover under /.well-known/matrix/."
    )
    federation: Federation = section(
        Federation, doc="Other servers, and every request this server sends out."
    )
    memory_budget: Bytes = option(
        default=Bytes(256 * 2**20),
        check=values.at_least(16 * 2**20),
        doc="How much memory each process may fill with what it could read from the database again.",
    )
    logging: Logging = section(Logging, doc="The log, on standard error.")

    @property
    def base_url(self) -> str:
        """The URL clients reach this server at, always ending in a slash."""
        if self.public_baseurl is not None:
            return self.public_baseurl.rstrip("/") + "/"
        if not is_local(self.server_name):
            return f"https://{self.server_name}/"
        serving = [listener for listener in self.listeners if "client" in listener.serves]
        return listener_url(serving[0] if serving else self.listeners[0])

    @property
    def echo_user_id(self) -> str | None:
        """The user id of the account that answers calls."""
        return None if self.calls.echo_user is None else f"@{self.calls.echo_user}:{self.server_name}"

    @property
    def delegated_server(self) -> str | None:
        """`m.server` of /.well-known/matrix/server, or None where there is nothing to say."""
        if not self.federation.enabled:
            return None
        if self.well_known.server is not None:
            return self.well_known.server
        parts = urlsplit(self.base_url)
        if parts.scheme != "https":
            return None
        return parts.netloc if parts.port is not None else f"{parts.netloc}:443"


def listener_url(listener: Listener) -> str:
    """The URL by which this machine itself reaches a listener; a wildcard address becomes loopback."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(listener.bind, listener.bind)  # noqa: S104
    if ":" in host:
        host = f"[{host}]"
    return f"{'https' if listener.tls else 'http'}://{host}:{listener.port}/"
