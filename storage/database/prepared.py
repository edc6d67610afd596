# SPDX-License-Identifier: Apache-2.0
"""Statements that each connection prepares on first use, so that the server parses and plans them once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import count

_PLACEHOLDER = re.compile(r"%(?:\((?P<name>[^)]*)\))?(?P<kind>[s%])")
_serial = count(1)


class Prepared:
    """A statement with `%s` or `%(name)s` parameters, accepted wherever a statement's text is.

    Make one per statement, as a module constant: a connection remembers each it met for as long as it lives.
    Parameters get their types from the statement (`%s::text[]` where Postgres can't tell).
    Worth it for statements run thousands of times whose planning is not negligible (joins, subqueries).
    """

    __slots__ = ("definition", "identifier", "invocation", "sql")

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self.identifier = f"lares_{next(_serial)}"
        names: dict[str, int] = {}
        arguments: list[str] = []

        def number(match: re.Match[str]) -> str:
            if match["kind"] == "%":
                return "%"
            name = match["name"]
            if name is None:
                arguments.append("%s")
                return f"${len(arguments)}"
            if name not in names:
                arguments.append(f"%({name})s")
                names[name] = len(arguments)
            return f"${names[name]}"

        body = _PLACEHOLDER.sub(number, sql)
        if names and len(names) != len(arguments):
            raise ValueError("a statement's parameters are either all named or all positional")
        self.definition = f"PREPARE {self.identifier} AS {body}"
        self.invocation = f"EXECUTE {self.identifier}" + (f"({', '.join(arguments)})" if arguments else "")


Parameters = Sequence[object] | Mapping[str, object]
Statement = str | Prepared
