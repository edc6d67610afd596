# SPDX-License-Identifier: Apache-2.0
"""Each configured TURN URI: whether it gives addresses for our credentials, and whether a call passes through it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

from homeserver.calls.media.messages import CallReport, Received
from homeserver.calls.turn import TurnLogin
from homeserver.needs import Protocol
from homeserver.observability.findings import Finding, Part, note, ok, problem


class Asking(Protocol):
    """`asking.MediaAsker`."""

    async def ask(self, what: str, /, call_id: str | None = None, **parameters: Any) -> Any: ...


async def examine_turn(asking: Asking, login: TurnLogin | None) -> list[Part]:
    """A part for each URI."""
    if login is None:
        finding = note(
            "No TURN server is configured: calls work only where two devices reach each other directly, "
            "which they often do not.",
            "Set one up (coturn) and name it in turn.uris.",
        )
        return [Part("TURN", (finding,))]
    return [Part(f"TURN: {uri}", tuple(await _examine_uri(asking, login, uri))) for uri in login.uris]


async def _examine_uri(asking: Asking, login: TurnLogin, uri: str) -> list[Finding]:
    if not uri.startswith("turn"):
        return [note("A STUN URI; it relays nothing and is not examined.")]
    credentials = {"username": login.username, "password": login.password}
    answer = await asking.ask("allocate", uri=uri, **credentials)
    if "error" in answer:
        return [failed_allocation(uri, answer["error"], answer["detail"])]
    findings = list(allocated(answer))
    reports = await asking.ask("loop", ice=[{"uris": [uri], **credentials}])
    findings += relayed([CallReport.parse(report) for report in reports])
    return findings


def allocated(answer: Mapping[str, str]) -> Iterator[Finding]:
    """What is to be said of the addresses that were given."""
    relayed = answer["relayed"]
    yield ok(f"It gives an address: {relayed}. It sees this machine as {answer['reflexive']}.")
    if _is_private(relayed.rpartition(":")[0]) and not _is_private(answer["server"]):
        yield problem(
            f"The address {relayed} is one of a private network: nobody outside can send to it.",
            "Set external-ip=<public address>/<private address> in turnserver.conf and restart coturn.",
        )


def _is_private(host: str) -> bool:
    return not ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_global


def failed_allocation(uri: str, error: str, detail: str) -> Finding:
    """Why there is no address, and what to do."""
    transport = "TCP" if uri.startswith("turns:") or uri.endswith("transport=tcp") else "UDP"
    match error:
        case "refused":
            return problem(
                f"It refuses our credentials: {detail}.",
                "turn.shared_secret must be coturn's static-auth-secret, with use-auth-secret set there; for fixed "
                "credentials, turn.username and turn.password must be a user of it. Check both machines' clocks.",
            )
        case "silent":
            return problem(
                f"It does not answer over {transport}.",
                f"Is coturn running? Open its {transport} port in every firewall between here and there.",
            )
        case "certificate":
            return problem(
                f"No encrypted connection came about: {detail}.",
                "The certificate (cert and pkey in turnserver.conf) must be valid for the host in the URI, with "
                "the intermediate certificates in the same file.",
            )
        case "name":
            return problem(
                f"The name has no address: {detail}.", "Correct the host in turn.uris, or its DNS record."
            )
        case "uri":
            return note("This form of URI is not understood by this examination.")
    return problem(
        f"It cannot be reached over {transport}: {detail}.",
        f"Is coturn running, and listening on that {transport} port?",
    )


def relayed(reports: list[CallReport]) -> Iterator[Finding]:
    """What is to be said of two callers that may only use the relay."""
    if not all(report.connected for report in reports):
        yield problem(
            "Two test callers, each with an address of this server, did not reach each other through it.",
            "Open coturn's relay ports (min-port to max-port, by default UDP 49152 to 65535) in the firewall, and see "
            "that denied-peer-ip does not hold its own address.",
        )
        return
    lost = [each for report in reports for each in report.received if not each.packets or not each.frames]
    if lost or any(not report.received for report in reports):
        yield problem(
            "Two test callers reached each other through it, but not all sound and pictures arrived.",
            "Look at coturn's log for quotas (user-quota, total-quota, max-bps).",
        )
        return
    yield ok(f"A call through it alone works both ways: {_summary(reports)}.")


def _summary(reports: list[CallReport]) -> str:
    received: list[Received] = [each for report in reports for each in report.received]
    packets, lost = sum(each.packets for each in received), sum(each.lost for each in received)
    jitter = max(each.jitter_ms for each in received)
    return f"{packets} packets, {lost} lost, jitter up to {jitter:.0f} ms"
