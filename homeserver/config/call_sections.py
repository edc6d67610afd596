# SPDX-License-Identifier: Apache-2.0
"""The configuration of calls, key by key: TURN for calls of two, LiveKit for calls of many.

Owns the sections `turn` and `rtc`, part of what `sections` declares. docs/calls.md tells how to fill them in.
"""

from dataclasses import dataclass
from pathlib import Path

from homeserver.config import values
from homeserver.config.option import option
from homeserver.config.units import Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The TURN server that clients are told of, and what proves to it that they are ours."""

    uris: tuple[str, ...] = option(
        default=(),
        check=values.turn_uris,
        doc="TURN servers that relay calls between people who cannot reach each other directly. Name each way to "
        "reach yours: UDP is fastest, TCP and TLS pass more firewalls. stun: URIs may stand among them. "
        'Such as ["turn:turn.example.org?transport=udp", "turn:turn.example.org?transport=tcp"].',
    )
    shared_secret: str | None = option(
        default=None,
        check=values.not_empty,
        secret=True,
        doc="The secret this server shares with the TURN server (coturn: static-auth-secret), by which it makes "
        "credentials that expire.",
    )
    shared_secret_file: Path | None = option(
        default=None,
        doc="A file that holds the secret, in place of shared_secret.",
    )
    username: str | None = option(
        default=None,
        check=values.not_empty,
        doc="A fixed user name, for TURN servers that know no shared secret. Everyone who may call learns it.",
    )
    password: str | None = option(
        default=None, check=values.not_empty, secret=True, doc="The password of that user name."
    )
    credential_lifetime: Seconds = option(
        default=Seconds(3600),
        check=values.at_least(60),
        doc="How long credentials are good for; clients fetch new ones in time.",
    )
    allow_guests: bool = option(default=False, doc="Whether guests may have calls relayed, too.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rtc:
    """The LiveKit server that carries group calls, and the key this server signs for it with."""

    livekit_url: str | None = option(
        default=None,
        check=values.websocket_url,
        doc="The LiveKit server of group calls, as clients reach it, such as "
        "wss://livekit.example.org. null: there are no group calls.",
    )
    livekit_api_url: str | None = option(
        default=None,
        check=values.http_url,
        doc="Where this server reaches LiveKit, if not at livekit_url, such as http://127.0.0.1:7880.",
    )
    api_key: str | None = option(
        default=None, check=values.not_empty, doc="The name of a key in LiveKit's configuration (keys:)."
    )
    api_secret: str | None = option(
        default=None,
        check=values.signing_secret,
        secret=True,
        doc="The secret of that key, of at least 32 characters.",
    )
    api_secret_file: Path | None = option(
        default=None,
        doc="A file that holds the secret, in place of api_secret.",
    )
    full_access_servers: tuple[str, ...] = option(
        default=(),
        check=values.server_names,
        doc="Servers, besides this one, whose users may begin calls on this LiveKit. Users of any other may join "
        "those that were begun.",
    )

    @property
    def api_url(self) -> str:
        """Where this server reaches LiveKit, over http or https. To be asked only where LiveKit is configured."""
        if self.livekit_api_url is not None:
            return self.livekit_api_url
        assert self.livekit_url is not None, "rtc.livekit_url is not configured"
        return f"http{self.livekit_url.removeprefix('ws')}"
