# SPDX-License-Identifier: Apache-2.0
"""The examination of a server: found as any server would find it, then asked at each of its addresses.

Owns what is asked and in which order. Does not own what the answers are worth (`judging`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from msgspec import Struct

from federation.discovery import DiscoveryFailed, ServerDiscovery
from federation.doctor import judging
from homeserver.observability.findings import Finding, Part, Report, note, problem
from homeserver.outgoing import Caps, OutgoingClient, OutgoingError, OutgoingResponse, Target
from homeserver.outgoing.inspection import Inspector
from homeserver.protocol.signing import VerifyKey

CAPS: Final = Caps(max_size=256 * 1024, timeout=20.0, stall=10.0)


class Own(Struct, frozen=True):
    """Who this server is; `keys` is empty if it has none yet."""

    server_name: str
    keys: Mapping[str, VerifyKey]


class Examiner:
    """Examines servers. `now` is the time of day, with a time zone."""

    def __init__(
        self,
        *,
        discovery: ServerDiscovery,
        client: OutgoingClient,
        inspector: Inspector,
        own: Own,
        now: Callable[[], datetime],
    ) -> None:
        self._discovery = discovery
        self._client = client
        self._inspector = inspector
        self._own = own
        self._now = now

    async def examine(self, server_name: str) -> Report:
        """Everything about a server. Raises nothing: what goes wrong is a finding."""
        title = f"Finding {server_name}"
        try:
            resolution = await self._discovery.resolve(server_name)
        except DiscoveryFailed as error:
            finding = problem(
                f"{error}.", "A server name is a DNS name or an address, with an optional port."
            )
            return Report(server_name, (Part(title, (finding,)),))
        parts = [Part(title, tuple(judging.way_findings(resolution)))]
        answers: list[OutgoingResponse] = []
        for target in resolution.targets:
            parts += await self._examine_target(server_name, target, answers)
        seen = {frozenset(judging.published_keys(answer)) for answer in answers}
        if len(seen) > 1:
            finding = problem(
                "Not all addresses publish the same keys.",
                "Remove the addresses that lead to another server.",
            )
            parts.append(Part("All addresses together", (finding,)))
        return Report(server_name, tuple(parts))

    async def _examine_target(
        self, server_name: str, target: Target, answers: list[OutgoingResponse]
    ) -> list[Part]:
        title = f"{target.host} port {target.port}"
        try:
            addresses = await self._inspector.addresses(target.host)
        except OutgoingError as error:
            finding = judging.failure_finding(f"There is no way to {target.host}", error)
            return [Part(title, (finding,))]
        parts = []
        for address in addresses:
            there = target._replace(host=address)
            findings = await self._examine_address(server_name, there, answers)
            place = f"[{address}]" if ":" in address else address
            shown = title if address == target.host else f"{title}, at {place}"
            parts.append(Part(shown, tuple(findings)))
        return parts

    async def _examine_address(
        self, server_name: str, target: Target, answers: list[OutgoingResponse]
    ) -> list[Finding]:
        now = self._now()
        try:
            certificate = await self._inspector.certificate(target)
        except OutgoingError as error:
            return [judging.failure_finding("No encrypted connection can be made", error)]
        findings = list(judging.certificate_findings(certificate, target, now))
        try:
            version = await self._get(target, "/_matrix/federation/v1/version")
            keys = await self._get(target, "/_matrix/key/v2/server")
        except OutgoingError as error:
            return [*findings, judging.failure_finding("It does not answer", error)]
        answers.append(keys)
        findings += judging.version_findings(version)
        findings += judging.clock_findings(version, now)
        findings += judging.key_findings(keys, server_name, now)
        if server_name == self._own.server_name:
            findings += judging.own_key_findings(keys, self._own.keys, server_name)
            if not self._own.keys:
                findings.append(note("Whether it is this server cannot be told: it has no signing key yet."))
        return findings

    async def _get(self, target: Target, path: str) -> OutgoingResponse:
        return await self._client.request("GET", target, path, caps=CAPS, purpose="doctor")
