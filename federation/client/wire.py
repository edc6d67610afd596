# SPDX-License-Identifier: Apache-2.0
"""What carries a request to another server: the seam between what is said and how it gets there.

Owns the interface only. `http_wire` speaks HTTP; tests put servers in memory behind it.
"""

from collections.abc import Mapping

from msgspec import Struct

from homeserver.needs import Protocol


class Answer(Struct, frozen=True):
    """An HTTP response: its status and its whole body, unpacked."""

    status: int
    body: bytes


class Wire(Protocol):
    """Carries one HTTP request to the server of a name, wherever that is."""

    async def send(
        self,
        destination: str,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: float,
        max_size: int,
        repeatable: bool = False,
    ) -> Answer:
        """The answer, whatever its status; redirects are answers.

        `target` is sent exactly as it is, `body` as JSON. `timeout` (seconds) covers everything from the look-up of
        the name to the last byte, `max_size` (bytes) the body. `repeatable`: it does no harm twice,
        which else is true of all but a POST; so it may be sent again where an idle connection swallowed it. Raises
        Unreachable, and NotAsked where too much is under way on this side.
        """
        ...
