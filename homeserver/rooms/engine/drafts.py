# SPDX-License-Identifier: Apache-2.0
"""What a service asks to be written: drafts of events, and the transaction they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from msgspec import Struct
from msgspec.structs import force_setattr

from storage.events import StoredEvent


class SendTransaction(Struct, frozen=True):
    """A client's transaction: the same one gives the same event, for ever and on every process.

    Client-server API, "Transaction identifiers": scoped to a device and an HTTP path, which `scope` stands for.
    """

    user_id: str
    device_id: str
    scope: str
    transaction_id: str
    key: str = ""
    """Digest of all four, as a UUID: not to be given."""

    def __post_init__(self) -> None:
        text = "\0".join((self.user_id, self.device_id, self.scope, self.transaction_id))
        name = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        # As `uuid.UUID` writes it, in a fifth of its time.
        uuid = f"{name[:8]}-{name[8:12]}-{name[12:16]}-{name[16:20]}-{name[20:]}"
        force_setattr(self, "key", uuid)


class Draft(Struct, frozen=True):
    """An event before it is built: the engine adds the place in the room, hashes and signature."""

    type: str
    sender: str
    content: Mapping[str, Any]
    state_key: str | None = None
    redacts: StoredEvent | None = None
    """The event an `m.room.redaction` strikes; the engine writes `redacts` where the room version has it."""
    origin_server_ts: int | None = None
    """Milliseconds; None: now."""
    transaction: SendTransaction | None = None
    stripped_state: str | None = None
    """JSON array kept with an invite or knock: what the invited user is shown of the room."""


class DirectoryEntry(Struct, frozen=True):
    """What this server's directories say of a new room from its first moment on."""

    creator: str
    alias: str | None = None
    """Must be free, or the room is not made."""
    published: bool = False

    def row(self) -> dict[str, Any]:
        """Further keys of the room's row in a batch (`commit_stream`)."""
        return {"alias": self.alias, "alias_creator": self.creator, "published": self.published}
