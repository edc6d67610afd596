# SPDX-License-Identifier: Apache-2.0
"""The body of a transaction (server-server API, "Transactions"), spliced from parts that are canonical already. Pure.

An event is stored as the canonical JSON that was signed; nothing of it is decoded on its way out. `unsigned` is left
out: it is optional, covered by no signature, and what it may say (the age) nobody relies on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from sys import getsizeof
from typing import NamedTuple

from homeserver.protocol.canonical_json import encode_canonical

MOST_PDUS = 50
MOST_EDUS = 100
MOST_BYTES = 4 * 2**20
"""Of the parts of one transaction together; a single one may be larger."""


@dataclass(slots=True)
class Pdu:
    """An event on its way, one for all servers."""

    position: int
    event_id: str
    json: str
    """Canonical."""
    lanes: int = field(default=0, compare=False)
    """How many hold it."""


class Edu(NamedTuple):
    """An ephemeral unit on its way."""

    edu_type: str
    content: str
    """Canonical JSON."""
    kept: int = 0
    """The id under which it is kept until it arrives; 0 if it is not."""


Item = Pdu | Edu


def encode_transaction(origin: str, origin_server_ts: int, items: Sequence[Item]) -> bytes:
    """The canonical JSON of a transaction; `items` in their order, events apart from ephemeral units."""
    pdus = [item.json for item in items if isinstance(item, Pdu)]
    edus = [
        f'{{"content":{item.content},"edu_type":{_text(item.edu_type)}}}'
        for item in items
        if isinstance(item, Edu)
    ]
    ephemeral = f'"edus":[{",".join(edus)}],' if edus else ""
    return (
        f'{{{ephemeral}"origin":{_text(origin)},"origin_server_ts":{origin_server_ts},"pdus":[{",".join(pdus)}]}}'
    ).encode()


def weight(item: Item) -> int:
    """About how many bytes an item takes, in memory or on its way: what is not ASCII takes two to four a character."""
    return getsizeof(item.json if isinstance(item, Pdu) else item.content)


def _text(value: str) -> str:
    return encode_canonical(value).decode()
