# SPDX-License-Identifier: Apache-2.0
"""The servers a client names as being in a room (`via`)."""

from typing import Final

from homeserver.protocol.identifiers import is_valid_server_name
from homeserver.web.request import MatrixRequest

MOST_SERVERS: Final = 20


def named_servers(request: MatrixRequest) -> list[str]:
    """By `via`, or `server_name` as it was called before. A few will do."""
    named = [*request.query.strings("via"), *request.query.strings("server_name")]
    return [name for name in dict.fromkeys(named) if is_valid_server_name(name)][:MOST_SERVERS]
