# SPDX-License-Identifier: Apache-2.0
"""PDUs that no honest server makes, though hashed and signed as they should be; and checking by keys that are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from homeserver.protocol.errors import SignatureError
from homeserver.protocol.events import Event
from homeserver.protocol.hashes import content_hash
from homeserver.protocol.room_versions import room_version
from homeserver.protocol.signing import VerifyKey, check_event_signatures
from homeserver.protocol.unpadded_base64 import encode_base64
from homeserver.web.clock import Clock
from tests.federation.servers import RemoteServer


def resigned(pdu: Mapping[str, Any], version: str, server: RemoteServer) -> dict[str, Any]:
    """The PDU after a change, hashed and signed anew by the server."""
    bare = {key: value for key, value in pdu.items() if key not in ("hashes", "signatures")}
    digest = content_hash(bare, room_version(version))
    return server.sign_pdu({**bare, "hashes": {"sha256": encode_base64(digest)}}, version)


class KnownKeys:
    """Checks by the keys of the servers it is given; counts how often it was asked."""

    def __init__(self, *servers: RemoteServer) -> None:
        self._keys: Mapping[str, Mapping[str, VerifyKey]] = {each.name: each.verify_keys for each in servers}
        self.batches: list[int] = []

    async def verify_events(
        self, events: Sequence[Event], *, asker: str | None = None, clock: Clock | None = None
    ) -> list[SignatureError | None]:
        self.batches.append(len(events))
        outcomes: list[SignatureError | None] = []
        for event in events:
            try:
                check_event_signatures(event, self._keys)
            except SignatureError as error:
                outcomes.append(error)
            else:
                outcomes.append(None)
        return outcomes
