# SPDX-License-Identifier: Apache-2.0
"""What answers of a server are worth: pure functions from what came back to findings.

Owns the judgement of the way to a server, its certificate, its keys, its version and its clock (server-server API,
"Server discovery", "Retrieving server keys"). Does not own the asking.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final

import orjson

from federation.discovery import Resolution
from federation.discovery.steps import Step
from homeserver.observability.findings import Finding, note, ok, problem
from homeserver.outgoing import OutgoingResponse, Target
from homeserver.outgoing.errors import (
    AddressDenied,
    CertificateRefused,
    ConnectFailed,
    NameNotFound,
    OutgoingError,
    TimedOut,
    TlsFailed,
)
from homeserver.outgoing.inspection import Certificate
from homeserver.protocol.errors import CanonicalJsonError, SignatureError
from homeserver.protocol.signing import VerifyKey, check_json_signature

#: Before a certificate's end, somebody should look whether it is being renewed.
RENEWAL: Final = timedelta(days=14)
MAX_SKEW: Final = 60.0

_WAYS: Final = {
    Step.IP_LITERAL: "The name is an address, so nothing is looked up",
    Step.EXPLICIT_PORT: "The name carries a port, so no delegation is looked for",
    Step.DELEGATED_IP_LITERAL: "The document names an address",
    Step.DELEGATED_EXPLICIT_PORT: "The document names a port",
    Step.DELEGATED_SRV: "The delegated name has an SRV record",
    Step.DELEGATED_DEPRECATED_SRV: "The delegated name has an SRV record under the old service name",
    Step.DELEGATED_DEFAULT_PORT: "The delegated name has no SRV record, so the port is 8448",
    Step.SRV: "The name has an SRV record",
    Step.DEPRECATED_SRV: "The name has an SRV record under the old service name",
    Step.DEFAULT_PORT: "Nothing delegates and there is no SRV record, so the port is 8448",
}
_ADVICE: Final[Mapping[type[OutgoingError], str]] = {
    NameNotFound: "Give the name an A or AAAA record, or delegate to a name that has one.",
    AddressDenied: "Other servers cannot reach private addresses. Publish the public address; if this network is "
    "meant, add it to federation.allow_ip_ranges here.",
    ConnectFailed: "Open the port in the firewall and see that a listener with `federation` (or a proxy) is behind it.",
    TimedOut: "A firewall may drop the packets, or a proxy may wait for a server that is not there.",
    CertificateRefused: "Install a certificate for this name, with every certificate between it and the root, from an "
    "authority that others trust.",
    TlsFailed: "See that this port speaks TLS 1.2 or newer, and not plain HTTP.",
}


def way_findings(resolution: Resolution) -> Iterator[Finding]:
    """The steps taken to find the server."""
    well_known = resolution.well_known
    if well_known is not None:
        name = resolution.server_name
        if well_known.delegated_name is not None:
            yield ok(f"https://{name}/.well-known/matrix/server delegates to {well_known.delegated_name}.")
        else:
            yield note(f"https://{name}/.well-known/matrix/server delegates to nobody: {well_known.problem}.")
    for name, srv in resolution.srv:
        if srv.problem is not None:
            yield problem(
                f"{name}: {srv.problem}.", "Look at the name servers of this machine and of the domain."
            )
        elif srv.records:
            hosts = ", ".join(f"{record.host or '.'}:{record.port}" for record in srv.records)
            yield ok(f"{name} has SRV records for {hosts}.")
        else:
            yield note(f"{name} has no SRV record.")
    yield ok(f"{_WAYS[resolution.step]} (step {resolution.step.value}).")
    if resolution.step in (Step.DELEGATED_DEPRECATED_SRV, Step.DEPRECATED_SRV):
        yield note(
            "The service name _matrix._tcp is deprecated.",
            "Serve /.well-known/matrix/server, or rename the record to _matrix-fed._tcp.",
        )
    if not resolution.targets:
        yield problem(
            "The SRV record says that there is no federation at this name.", "Remove it, or give it a target."
        )


def failure_finding(what: str, error: OutgoingError) -> Finding:
    """Something could not be had at all."""
    advice = next((text for kind, text in _ADVICE.items() if isinstance(error, kind)), "")
    return problem(
        f"{what}: {error}.", advice or "Look into the log of that server or of the proxy before it."
    )


def certificate_findings(shown: Certificate, target: Target, now: datetime) -> Iterator[Finding]:
    """Names and time. Whether it is trusted shows in the requests."""
    names = ", ".join(shown.names) or "no name at all"
    yield ok(f"The certificate is for {names}; issued by {shown.issuer}, good until {shown.ends:%Y-%m-%d}.")
    if now < shown.ends < now + RENEWAL:
        days = (shown.ends - now).days
        yield problem(f"The certificate ends in {days} days.", "See that it is renewed automatically.")
    if shown.ends <= now:
        yield problem(
            f"The certificate ended on {shown.ends:%Y-%m-%d}.", "Renew it, and reload what serves it."
        )
    if now < shown.starts:
        yield problem(f"The certificate is good from {shown.starts:%Y-%m-%d} only.", "Look at the clocks.")
    if not shown.names:
        yield problem(
            "The certificate lists no name where names are looked for.",
            f"Have one issued with {target.tls_name} as subject alternative name.",
        )


def version_findings(response: OutgoingResponse) -> Iterator[Finding]:
    """`GET /_matrix/federation/v1/version`."""
    document = _object(response)
    server = document.get("server") if document is not None else None
    if not isinstance(server, dict):
        yield problem(
            f"/_matrix/federation/v1/version is answered with HTTP {response.status} and no version.",
            "See that the proxy passes /_matrix/federation to the homeserver, path unchanged.",
        )
        return
    yield ok(f"It runs {str(server.get('name'))[:100]} {str(server.get('version'))[:100]}.")


def clock_findings(response: OutgoingResponse, now: datetime) -> Iterator[Finding]:
    """The `Date` header against this machine's clock."""
    try:
        theirs = parsedate_to_datetime(response.headers.get("date", ""))
    except (ValueError, TypeError):
        return
    if theirs.tzinfo is None:
        theirs = theirs.replace(tzinfo=UTC)
    skew = (theirs - now).total_seconds()
    if abs(skew) > MAX_SKEW:
        words = "ahead of" if skew > 0 else "behind"
        yield problem(
            f"Its clock is {abs(skew):.0f} seconds {words} this machine's.",
            "Have both keep time by NTP: signatures and certificates are judged by the clock.",
        )
    else:
        yield ok("Its clock agrees with this machine's.")


def key_findings(response: OutgoingResponse, server_name: str, now: datetime) -> Iterator[Finding]:
    """`GET /_matrix/key/v2/server`: whose keys, signed by themselves, valid for how long."""
    document = _object(response)
    if document is None:
        yield problem(
            f"/_matrix/key/v2/server is answered with HTTP {response.status} and no keys.",
            "See that the proxy passes /_matrix/key to the homeserver, path unchanged.",
        )
        return
    named = document.get("server_name")
    if named != server_name:
        yield problem(
            f"The keys are those of {str(named)[:255]!r}, not of {server_name}.",
            "Delegate to the right server, or set server_name there; a server's name cannot be changed later.",
        )
        return
    keys = published_keys(response)
    if not keys:
        yield problem(
            "No Ed25519 key is published.", "A server without a key cannot take part in federation."
        )
        return
    yield from _signature_findings(document, server_name, keys)
    yield _validity_finding(document.get("valid_until_ts"), now)


def published_keys(response: OutgoingResponse) -> dict[str, VerifyKey]:
    """The keys of a key document by key id, those that are none left out."""
    document = _object(response) or {}
    keys: dict[str, VerifyKey] = {}
    published = document.get("verify_keys")
    for key_id, entry in published.items() if isinstance(published, dict) else ():
        text = entry.get("key") if isinstance(entry, dict) else None
        if key_id.startswith("ed25519:") and isinstance(text, str):
            try:
                keys[key_id] = VerifyKey.from_base64(text)
            except ValueError:
                continue
    return keys


def own_key_findings(
    response: OutgoingResponse, own: Mapping[str, VerifyKey], server_name: str
) -> Iterator[Finding]:
    """Whether what others find under our name is this server."""
    found = published_keys(response)
    for key_id, key in own.items():
        there = found.get(key_id)
        if there is not None and there.to_base64() == key.to_base64():
            yield ok(f"It is this server: it publishes our key {key_id}.")
        else:
            yield problem(
                f"It is not this server: our key is {key_id} {key.to_base64()}, there it is "
                f"{', '.join(f'{each} {value.to_base64()}' for each, value in found.items()) or 'none'}.",
                f"Others who look for {server_name} end up elsewhere: correct the delegation or the address, or bring "
                "the signing key of the old installation along.",
            )


def _signature_findings(
    document: dict[str, Any], server_name: str, keys: Mapping[str, VerifyKey]
) -> Iterator[Finding]:
    for key_id, key in keys.items():
        try:
            check_json_signature(document, server_name, {key_id: key})
        except (SignatureError, CanonicalJsonError) as error:
            yield problem(
                f"The keys are not signed by {key_id}: {error}.",
                "The answer was changed on its way, or the server's key file is damaged.",
            )
        else:
            yield ok(f"It publishes the key {key_id} {key.to_base64()}, signed by itself.")


def _validity_finding(until: object, now: datetime) -> Finding:
    if type(until) is not int:
        return problem("The keys do not say until when they are valid.", "valid_until_ts is missing.")
    left = until / 1000 - now.timestamp()
    if left <= 0:
        return problem(
            "The keys are no longer valid.", "The answer is an old one: look for a cache before the server."
        )
    return ok(f"The keys are valid for another {left / 3600:.0f} hours.")


def _object(response: OutgoingResponse) -> dict[str, Any] | None:
    if response.status != 200:
        return None
    try:
        document = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None
