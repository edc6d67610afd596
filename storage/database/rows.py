# SPDX-License-Identifier: Apache-2.0
"""The quickest way to hand many rows to one statement: a single JSON text parameter.

psycopg2 writes parameters into the statement's text. Per value that costs a Python-level adaptation (≈ 0.4 µs
for text, far more for `bytes`, which become `'\\x…'::bytea` by way of a quoting object each), and the server
parses a longer statement. One JSON text, built by orjson and taken apart by the server, costs about a tenth
per row:

    await txn.execute(
        "insert_things",
        "INSERT INTO things (id, name) SELECT id, name FROM json_to_recordset(%s) AS r(id bigint, name text)",
        (JsonRows([{"id": 1, "name": "a"}, …]),),
    )

For one column of text or integers a list parameter (`= ANY(%s)`, `unnest(%s::text[])`) is as good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from psycopg2.extensions import QuotedString, adapt, connection


class JsonRows:
    """A parameter sent as one JSON text: rows (mappings or dataclasses) for `json_to_recordset`, or a mapping.

    Raises `TypeError` for what JSON can't hold. U+0000 in any text gives `UnstorableText` when the statement
    is sent, as the server would refuse it only on the row's extraction.
    """

    __slots__ = ("_encoded", "_quoted")

    def __init__(self, rows: Sequence[object] | Mapping[str, object]) -> None:
        self._encoded = orjson.dumps(rows)
        self._quoted: QuotedString | None = None

    def prepare(self, conn: connection) -> None:
        """psycopg2's protocol for parameters: quoting depends on the connection, if there is a backslash."""
        if b"\\" not in self._encoded:
            return
        if b"\\u0000" in self._encoded and _holds_nul(orjson.loads(self._encoded)):
            raise ValueError("NUL in JSON text")
        self._quoted = adapt(self._encoded.decode())
        self._quoted.prepare(conn)

    def getquoted(self) -> bytes:
        if self._quoted is not None:
            return self._quoted.getquoted()
        # Without a backslash this is all there is to it, whatever the connection's settings (it speaks UTF-8), and
        # takes a tenth of the time of libpq, which goes byte by byte.
        return b"'%b'" % self._encoded.replace(b"'", b"''")

    def __conform__(self, _protocol: object) -> JsonRows:
        return self


def _holds_nul(value: Any) -> bool:
    """Whether any text in a JSON value holds U+0000 (an escaped backslash before `u0000` is no NUL)."""
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any("\0" in key or _holds_nul(item) for key, item in value.items())
    return isinstance(value, list) and any(_holds_nul(item) for item in value)
