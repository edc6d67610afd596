# SPDX-License-Identifier: Apache-2.0
"""What the keys of a configuration must be to each other, and to the files they name.

Owns every rule that no single key can be checked for. Each rule is a generator of problems, each a complete
sentence that opens with the path of the key to change.
"""

from collections.abc import Iterator
from itertools import combinations

from homeserver.config.call_sections import Turn
from homeserver.config.sections import Config

# Two spellings of one key: a strict client refuses a document that has both.
_SPELLINGS = (
    ("m.rtc_foci", "org.matrix.msc4143.rtc_foci"),
    ("m.tile_server", "org.matrix.msc3488.tile_server"),
)


def contradictions(config: Config) -> Iterator[str]:
    """Everything wrong between keys; reads no file."""
    yield from _listeners(config)
    yield from _registration(config)
    yield from _well_known(config)
    yield from _federation(config)
    yield from _turn(config.turn)
    yield from _rtc(config)


def missing_files(config: Config) -> Iterator[str]:
    """Files that are named and cannot be read, and folders that are named and are none."""
    named = [(f"appservices[{index}]", path) for index, path in enumerate(config.appservices)]
    for index, listener in enumerate(config.listeners):
        if listener.tls is not None:
            named.append((f"listeners[{index}].tls.certificate", listener.tls.certificate))
            named.append((f"listeners[{index}].tls.private_key", listener.tls.private_key))
    if config.federation.ca_file is not None:
        named.append(("federation.ca_file", config.federation.ca_file))
    if config.turn.shared_secret_file is not None:
        named.append(("turn.shared_secret_file", config.turn.shared_secret_file))
    if config.rtc.api_secret_file is not None:
        named.append(("rtc.api_secret_file", config.rtc.api_secret_file))
    for where, path in named:
        try:
            path.open("rb").close()
        except OSError as error:
            yield f"{where}: cannot read {path}: {error.strerror}"
    if config.data_dir.exists() and not config.data_dir.is_dir():
        yield f"data_dir: {config.data_dir} is not a folder"


def _listeners(config: Config) -> Iterator[str]:
    for (first, one), (second, other) in combinations(enumerate(config.listeners), 2):
        if one.port == other.port != 0 and one.bind == other.bind:
            yield f"listeners[{second}]: listeners[{first}] already takes {one.bind} port {one.port}"
    if not any("client" in listener.serves for listener in config.listeners):
        yield "listeners: none serves client, so that nobody could log in"


def _registration(config: Config) -> Iterator[str]:
    for name, policy in config.registration.terms.items():
        if not policy.languages:
            yield f"registration.terms.{name}: needs at least one language, such as en: {{name: …, url: …}}"


def _well_known(config: Config) -> Iterator[str]:
    section = config.well_known
    if "m.homeserver" in section.client:
        yield "well_known.client.m.homeserver: comes from public_baseurl and cannot be set here"
    for stable, unstable in _SPELLINGS:
        if stable in section.client and unstable in section.client:
            yield f"well_known.client: {stable} and {unstable} are one key; clients refuse both together"
    for index, contact in enumerate(section.contacts):
        if contact.matrix_id is None and contact.email_address is None:
            yield f"well_known.contacts[{index}]: needs matrix_id or email_address"


def _federation(config: Config) -> Iterator[str]:
    if config.federation.ca_file is not None and not config.federation.verify_certificates:
        yield "federation.ca_file: means nothing while federation.verify_certificates is false"
    ids = [old.key_id for old in config.federation.old_keys]
    if len(set(ids)) < len(ids):
        yield "federation.old_keys: names a key id twice"
    if config.server_name in config.federation.notaries:
        yield "federation.notaries: names this server itself"


def _turn(turn: Turn) -> Iterator[str]:
    has_secret = turn.shared_secret is not None or turn.shared_secret_file is not None
    has_login = turn.username is not None or turn.password is not None
    if turn.shared_secret is not None and turn.shared_secret_file is not None:
        yield "turn.shared_secret_file: turn.shared_secret is given, too; one of them is enough"
    if has_secret and has_login:
        yield "turn.username: turn.shared_secret makes the credentials; remove either it, or username and password"
    elif has_login and (turn.username is None or turn.password is None):
        yield f"turn.{'username' if turn.username is None else 'password'}: must be given, too"
    relays = any(uri.startswith("turn") for uri in turn.uris)
    if relays and not has_secret and not has_login:
        yield "turn.shared_secret: must be given, or no client could use what turn.uris names"
    if not relays and (has_secret or has_login):
        yield "turn.uris: must name a turn: or turns: URI, which the credentials given here are for"


def _rtc(config: Config) -> Iterator[str]:
    rtc = config.rtc
    if rtc.api_secret is not None and rtc.api_secret_file is not None:
        yield "rtc.api_secret_file: rtc.api_secret is given, too; one of them is enough"
    given = {
        "livekit_url": rtc.livekit_url is not None,
        "api_key": rtc.api_key is not None,
        "api_secret": rtc.api_secret is not None or rtc.api_secret_file is not None,
    }
    if any(given.values()):
        yield from (f"rtc.{name}: must be given, too" for name, there in given.items() if not there)
    elif rtc.livekit_api_url is not None or rtc.full_access_servers:
        yield "rtc.livekit_url: must be given, or the other keys of rtc mean nothing"
    for name in _SPELLINGS[0] if rtc.livekit_url is not None else ():
        if name in config.well_known.client:
            yield f"well_known.client.{name}: comes from rtc.livekit_url and cannot be set here, too"
