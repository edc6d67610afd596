# SPDX-License-Identifier: Apache-2.0
"""Which transports this server offers to group calls (MSC4143)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from homeserver.config.sections import Config
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Route

SERVICE_PATH: Final = "/_matrix/client/unstable/org.lares.livekit"
FLAG: Final = "org.matrix.msc4143"
WELL_KNOWN_KEY: Final = "org.matrix.msc4143.rtc_foci"


def transports(config: Config) -> Sequence[dict[str, str]]:
    """The transports, in order of preference; none where no SFU is configured."""
    if config.rtc.livekit_url is None:
        return ()
    return ({"type": "livekit", "livekit_service_url": config.base_url.rstrip("/") + SERVICE_PATH},)


class RtcEndpoints:
    """`/rtc/transports`. To be served only where there are transports.

    Without any the path is unknown: clients then look elsewhere, while an empty answer would end their search.
    """

    def __init__(self, config: Config) -> None:
        self._transports = transports(config)

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                "GET",
                "/rtc/transports",
                self.get,
                also=("/_matrix/client/unstable/org.matrix.msc4143/rtc/transports",),
            ),
        )

    async def get(self, _request: MatrixRequest) -> Reply:
        """`GET /rtc/transports`."""
        return {"rtc_transports": self._transports}
