# SPDX-License-Identifier: Apache-2.0
"""An event as push rules look at it: its properties by dot-separated path (appendices, "Dot-separated property paths").

Owns reading paths, and remembering what was found: one view serves all users of a room, so what does not depend on
the user is computed once per event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from homeserver.protocol.push_rules.globs import fold

Path = tuple[str, ...]

#: What a property is that is not there; null is something else.
ABSENT: Final = object()

# Texts remembered with an event: more than ordinary rules ask for, no matter how many a user makes up.
_MOST_TEXTS: Final = 32

# Of a PDU, what clients know of it too; the rest (hashes, depth, …) is between servers.
_VISIBLE: Final = frozenset(("content", "origin_server_ts", "redacts", "sender", "state_key", "type"))


def parse_path(path: str) -> Path:
    """The names a path goes through. An escaped dot or backslash is literal, and so is any other backslash."""
    if "\\" not in path:
        return tuple(path.split("."))
    names: list[str] = []
    name = ""
    at = 0
    while at < len(path):
        character = path[at]
        if character == "\\" and path[at + 1 : at + 2] in {".", "\\"}:
            at += 1
            name += path[at]
        elif character == ".":
            names.append(name)
            name = ""
        else:
            name += character
        at += 1
    names.append(name)
    return tuple(names)


class EventView:
    """One event. `evaluation` owns `remembered`: whether each default rule that is alike for all users matched; and
    `left_over`: of the rules that were asked last, and once so many answers were known, those to ask still."""

    __slots__ = ("_event_id", "_pdu", "_texts", "left_over", "remembered", "room_id")

    def __init__(self, pdu: Mapping[str, Any], *, event_id: str, room_id: str) -> None:
        """`pdu` in the federation form, which may lack the two ids; it must not change meanwhile."""
        self._pdu = pdu
        self._event_id = event_id
        self.room_id = room_id
        self._texts: dict[Path, str | None] = {}
        self.remembered: dict[int | None, bool] = {}
        self.left_over: Any = None

    @property
    def sender(self) -> str:
        sender: str = self._pdu["sender"]
        return sender

    def value(self, path: Path) -> object:
        """The property there, or ABSENT."""
        name = path[0]
        found: object
        if name in _VISIBLE:
            found = self._pdu.get(name, ABSENT)
        elif name == "event_id":
            found = self._event_id
        elif name == "room_id":
            found = self.room_id
        else:
            return ABSENT
        for name in path[1:]:
            if type(found) is dict or isinstance(found, Mapping):  # nearly always, and told much faster
                found = found.get(name, ABSENT)
            else:
                return ABSENT
        return found

    def text(self, path: Path) -> str | None:
        """The property there as patterns see it (`globs.fold`); None if it is absent or no string."""
        try:
            return self._texts[path]
        except KeyError:
            value = self.value(path)
            text = fold(value) if isinstance(value, str) else None
            if len(self._texts) < _MOST_TEXTS:
                self._texts[path] = text
            return text
