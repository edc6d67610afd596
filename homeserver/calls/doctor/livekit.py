# SPDX-License-Identifier: Apache-2.0
"""LiveKit, which carries group calls: whether it is there, for this server and for clients, and takes the key."""

from __future__ import annotations

from typing import Final

from homeserver.calls.rtc.tokens import LiveKitTokens
from homeserver.observability.findings import Finding, Part, note, ok, problem
from homeserver.outgoing import AddressPolicy, Caps, OutgoingClient, OutgoingError, OutgoingResponse

_CAPS: Final = Caps(max_size=1 << 20, timeout=10.0)
_KEY: Final = (
    "rtc.api_key and rtc.api_secret must be a pair under keys: in LiveKit's configuration. "
    "Check both machines' clocks."
)


class LiveKit:
    """One LiveKit, at `livekit_url` for clients and at `api_url` for this server."""

    def __init__(
        self, *, http: OutgoingClient, livekit_url: str, api_url: str, tokens: LiveKitTokens
    ) -> None:
        self._http = http
        self._livekit_url = livekit_url
        self._api_url = api_url.rstrip("/")
        self._tokens = tokens

    async def examine(self) -> Part:
        """The part about it."""
        findings = [await self._api()]
        public = f"http{self._livekit_url.removeprefix('ws')}".rstrip("/")
        if public != self._api_url:
            findings.append(await self._public(public))
        return Part(f"LiveKit: {self._livekit_url}", tuple(findings))

    async def _api(self) -> Finding:
        url = f"{self._api_url}/twirp/livekit.RoomService/ListRooms"
        headers = {
            "Authorization": f"Bearer {self._tokens.listing_rooms()}",
            "Content-Type": "application/json",
        }
        try:
            answer = await self._fetch(url, method="POST", headers=headers, body=b"{}")
        except OutgoingError as error:
            return problem(
                f"It is not reached at {self._api_url}: {error}.",
                "Is LiveKit running? This server must reach it at rtc.livekit_api_url, or else at rtc.livekit_url.",
            )
        if answer.status == 200:
            return ok("It answers, and takes our key.")
        if answer.status in (401, 403):
            return problem("It answers, and does not take our key.", _KEY)
        return problem(
            f"What answers at {self._api_url} is not LiveKit: {answer.status} to ListRooms.",
            "A proxy in front of it must pass /twirp/ on, or rtc.livekit_api_url must go past the proxy.",
        )

    async def _public(self, url: str) -> Finding:
        try:
            answer = await self._fetch(f"{url}/")
        except OutgoingError as error:
            return problem(
                f"Clients are told {self._livekit_url}, which is not reached from here: {error}.",
                "Correct rtc.livekit_url, its DNS record, its certificate or the proxy in front of LiveKit.",
            )
        if answer.status >= 500:
            return problem(
                f"What clients are told, {self._livekit_url}, answers {answer.status}.",
                "The proxy there does not reach LiveKit.",
            )
        return ok("Where clients are sent, something answers.")

    async def _fetch(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> OutgoingResponse:
        # The administrator named the address, so it may be in the server's own network.
        return await self._http.fetch(
            url,
            method=method,
            headers=headers,
            body=body,
            caps=_CAPS,
            purpose="doctor",
            policy=AddressPolicy(),
        )


def without_livekit() -> Part:
    """The part where there is none."""
    finding = note("No LiveKit server is configured (rtc): there are no group calls.")
    return Part("LiveKit", (finding,))
