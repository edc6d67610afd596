# SPDX-License-Identifier: Apache-2.0
"""What the services of devices ask of other servers, as narrow as it can be said, and what stands in without
federation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from homeserver.needs import Protocol

JsonObject = Mapping[str, Any]


class RemoteKeysAnswer(Struct):
    """What other servers said of their users' keys; form and owner of everything in it were checked."""

    device_keys: dict[str, dict[str, JsonObject]] = field(default_factory=dict)
    """User → device → keys with `unsigned`."""
    master_keys: dict[str, JsonObject] = field(default_factory=dict)
    self_signing_keys: dict[str, JsonObject] = field(default_factory=dict)
    failures: dict[str, JsonObject] = field(default_factory=dict)
    """Server → why it could not be asked."""


class RemoteClaimAnswer(Struct):
    """One-time keys other servers gave out."""

    one_time_keys: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    failures: dict[str, JsonObject] = field(default_factory=dict)


class RemoteKeys(Protocol):
    """Keys of users of other servers."""

    async def kept(self, user_ids: Collection[str]) -> set[str]:
        """Those of the users whose lists of devices are kept here and right, and need not be asked for."""
        ...

    async def query(
        self, asking: str, device_keys: Mapping[str, Sequence[str]], timeout: float
    ) -> RemoteKeysAnswer:
        """Ask the users' servers, each within `timeout` seconds; keep what may be kept as `asking` shares a room."""
        ...

    async def claim(
        self, one_time_keys: Mapping[str, Mapping[str, str]], timeout: float
    ) -> RemoteClaimAnswer:
        """Claim one-time keys: user → device → algorithm."""
        ...


class MessagesOut(Struct, frozen=True):
    """Messages of one request to devices of other servers."""

    sender: str
    type: str
    transaction: str
    """Digest of the request: the same for a repetition."""
    messages: Mapping[str, Mapping[str, JsonObject]]
    """User → device or `*` → content."""


class RemoteDevices(Protocol):
    """Devices of users of other servers."""

    async def send(self, messages: MessagesOut) -> None:
        """Keep the messages for their servers, durably; repeated, they are delivered once."""
        ...


class Announcing(Protocol):
    """Tells other servers of changes of our users' devices."""

    @property
    def wanted(self) -> bool:
        """Whether there are other servers at all."""
        ...

    def due(self) -> None:
        """Changes were written to be announced."""
        ...


class NoRemoteKeys:
    """There is no federation: other servers cannot be reached."""

    async def kept(self, user_ids: Collection[str]) -> set[str]:
        return set()

    async def query(
        self, asking: str, device_keys: Mapping[str, Sequence[str]], timeout: float
    ) -> RemoteKeysAnswer:
        return RemoteKeysAnswer(failures=_unreachable(device_keys))

    async def claim(
        self, one_time_keys: Mapping[str, Mapping[str, str]], timeout: float
    ) -> RemoteClaimAnswer:
        return RemoteClaimAnswer(failures=_unreachable(one_time_keys))


class NoRemoteDevices:
    """There is no federation: messages to other servers reach nobody, as those to devices that do not exist."""

    async def send(self, messages: MessagesOut) -> None:
        return None


class NoAnnouncing:
    """There is no federation: nobody to tell."""

    wanted = False

    def due(self) -> None:
        return None


def _unreachable(users: Collection[str]) -> dict[str, JsonObject]:
    error = {"errcode": "M_FORBIDDEN", "error": "This server does not federate"}
    return {user_id.partition(":")[2]: error for user_id in users}
