# SPDX-License-Identifier: Apache-2.0
"""Server access control lists: whether a room's `m.room.server_acl` lets a server take part.

Owns the reading of the event's content and the matching of one server name (client-server API, "Server Access
Control Lists (ACLs) for rooms"). Does not know which requests are protected: that is the federation
listener's business.

The lists come from whoever has the power level to write them and are matched on every inbound transaction, so
neither reading nor matching may be driven into more than linear work per pattern: there is no backtracking
anywhere below.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final, Self

from msgspec import Struct

# Longer than any host name a server name can hold (appendices, "Server Name": at most 255 dns-chars or 45 + 2
# for IPv6).
_LONGEST_HOST: Final = 255
_IPV4_LITERAL: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}\Z")
_PORT: Final = re.compile(r":[0-9]{1,5}\Z")


class ServerAcl(Struct, frozen=True):
    """The rules of one `m.room.server_acl` event. A room without that event has no ACL and allows every
    server.
    """

    allow: "GlobSet"
    deny: "GlobSet"
    allow_ip_literals: bool

    @classmethod
    def from_content(cls, content: Mapping[str, object]) -> Self:
        """Read the event's content. Malformed parts count as absent, as the event's schema says: an `allow`
        that is not a list allows nobody, `allow_ip_literals` other than a boolean is true, entries other than
        strings match nothing.
        """
        return cls(
            allow=GlobSet.of(_strings(content.get("allow"))),
            deny=GlobSet.of(_strings(content.get("deny"))),
            allow_ip_literals=content.get("allow_ip_literals") is not False,
        )

    def allows(self, server_name: str) -> bool:
        """Whether `server_name` (with or without a port, which is ignored) may take part in the room."""
        host = _PORT.sub("", server_name).lower()
        if not self.allow_ip_literals and (host.startswith("[") or _IPV4_LITERAL.match(host)):
            return False
        if self.deny.matches(host):
            return False
        return self.allow.matches(host)


class GlobSet(Struct, frozen=True):
    """Case-insensitive globs (appendices, "Glob-style matching"): `*` is any run of characters, `?` any
    one.
    """

    exact: frozenset[str]
    runs: tuple[tuple[str, ...], ...]
    singles: tuple["_SingleGlob", ...]
    everything: bool

    @classmethod
    def of(cls, globs: Iterable[str]) -> Self:
        """Sort the globs by what they need: a set look-up, substring searches, or a bit-parallel
        automaton.
        """
        exact: set[str] = set()
        runs: dict[tuple[str, ...], None] = {}
        singles: dict[str, _SingleGlob] = {}
        everything = False
        for glob in (glob.lower() for glob in globs):
            if len(glob) - glob.count("*") > _LONGEST_HOST:
                continue
            if "?" in glob:
                singles[glob] = _SingleGlob.of(glob)
            elif "*" not in glob:
                exact.add(glob)
            elif glob.strip("*") == "":
                everything = True
            else:
                first, *middle, last = glob.split("*")
                runs[(first, *(part for part in middle if part), last)] = None
        return cls(frozenset(exact), tuple(runs), tuple(singles.values()), everything)

    def matches(self, text: str) -> bool:
        """Whether any glob matches all of `text`, which must be in lower case already."""
        if self.everything or text in self.exact:
            return True
        return any(_matches_runs(parts, text) for parts in self.runs) or any(
            glob.matches(text) for glob in self.singles
        )


def _matches_runs(parts: tuple[str, ...], text: str) -> bool:
    """Match literals separated by `*`. Taking the leftmost place for each middle literal never loses a
    match.
    """
    first, *middle, last = parts
    end = len(text) - len(last)
    if len(first) > end or not text.startswith(first) or not text.endswith(last):
        return False
    position = len(first)
    for part in middle:
        position = text.find(part, position, end)
        if position < 0:
            return False
        position += len(part)
    return True


class _SingleGlob(Struct, frozen=True):
    """A glob with `?`, as a Shift-And automaton: bit i of the state says that the first i pattern characters
    match the text read so far, so each character of the text costs a handful of operations on one integer.
    """

    places: Mapping[str, int]
    any_place: int
    loops: int
    accept: int

    @classmethod
    def of(cls, glob: str) -> Self:
        places: dict[str, int] = {}
        any_place = loops = 0
        bit = 1
        for character in glob:
            if character == "*":
                loops |= bit
                continue
            if character == "?":
                any_place |= bit
            else:
                places[character] = places.get(character, 0) | bit
            bit <<= 1
        return cls(places, any_place, loops, bit)

    def matches(self, text: str) -> bool:
        state = 1
        for character in text:
            advance = state & (self.places.get(character, 0) | self.any_place)
            state = (advance << 1) | (state & self.loops)
            if not state:
                return False
        return bool(state & self.accept)


def _strings(value: object) -> Iterable[str]:
    if not isinstance(value, list | tuple):
        return ()
    return (entry for entry in value if isinstance(entry, str))
