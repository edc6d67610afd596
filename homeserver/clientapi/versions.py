# SPDX-License-Identifier: Apache-2.0
"""What this server speaks: versions of the specification, and features beyond it.

Owns the list of versions and the registry of unstable features. Clients look for exact versions, so every one is listed
and not only the newest.
"""

from collections.abc import Iterable
from typing import Final

import orjson

from homeserver import __version__
from homeserver.web.replies import JsonBytes, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, ROOT, Auth, Route

VERSIONS: Final = (
    "r0.0.1",
    "r0.1.0",
    "r0.2.0",
    "r0.3.0",
    "r0.4.0",
    "r0.5.0",
    "r0.6.0",
    "r0.6.1",
    *(f"v1.{minor}" for minor in range(1, 20)),
)


class UnstableFeatures:
    """Flags of `unstable_features`, added by whoever makes the feature work.

    A flag promises that the feature's unstable paths answer too: some clients prefer them to the stable ones.
    """

    def __init__(self, flags: Iterable[str] = ()) -> None:
        self._flags: set[str] = set(flags)

    def add(self, *flags: str) -> None:
        """Advertise features."""
        self._flags.update(flags)

    def as_dict(self) -> dict[str, bool]:
        """Flag → true: clients accept nothing but booleans here."""
        return dict.fromkeys(sorted(self._flags), True)


class VersionEndpoints:
    """`/_matrix/client/versions`, `/_matrix/federation/v1/version`, `/_synapse/admin/v1/server_version`."""

    def __init__(self, features: UnstableFeatures) -> None:
        """`features` must be complete: later additions are not shown."""
        answer = {"versions": VERSIONS, "unstable_features": features.as_dict()}
        self._versions = JsonBytes(orjson.dumps(answer))

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                "GET",
                "/_matrix/client/versions",
                self.versions,
                under=ROOT,
                auth=Auth.NONE,
                limit="discovery",
            ),
            Route(
                "GET",
                "/version",
                self.version,
                under=FEDERATION_V1,
                auth=Auth.NONE,
                limit="discovery",
                besides=("federation",),
            ),
            Route(
                "GET",
                "/_synapse/admin/v1/server_version",
                self.server_version,
                under=ROOT,
                auth=Auth.NONE,
                limit="discovery",
                resource="admin",
            ),
        )

    async def versions(self, _request: MatrixRequest) -> Reply:
        """`GET /_matrix/client/versions`: the same for every user, so that a token is not looked at."""
        return self._versions

    async def version(self, _request: MatrixRequest) -> Reply:
        """`GET /_matrix/federation/v1/version`, which clients ask for too."""
        return {"server": {"name": "Lares", "version": __version__}}

    async def server_version(self, _request: MatrixRequest) -> Reply:
        """`GET /_synapse/admin/v1/server_version`."""
        return {"server_version": f"Lares {__version__}"}
