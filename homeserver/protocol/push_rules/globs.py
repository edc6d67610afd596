# SPDX-License-Identifier: Apache-2.0
"""Glob patterns of push rules, matched in time linear in the text (appendices, "Glob-style Matching").

Owns matching a whole value and matching at word boundaries, both without regard to case. A pattern is its user's to
choose and a text its sender's, so neither may be able to make a match slow: where a regular expression would go back
and forth (CVE-2021-29471), the pattern is run as a bit set of the places reached in it, one step per character.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Self

_WILDCARDS: Final = re.compile(r"[*?]+")
# A character within a word, or between two words: at either side of the latter a word may begin or end.
_WORD: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_")


class _Automaton(NamedTuple):
    """A pattern in folded form: which places of it each character leads on from, and any; where `*` stands; the end."""

    advance: dict[str, int]
    anything: int
    loops: int
    accept: int

    @classmethod
    def of(cls, pattern: str, *, literal: bool) -> Self:
        advance: dict[str, int] = {}
        anything = loops = at = 0
        for character in pattern:
            if character == "*" and not literal:
                loops |= 1 << at
                continue
            if character == "?" and not literal:
                anything |= 1 << at
            else:
                advance[character] = advance.get(character, 0) | 1 << at
            at += 1
        return cls(
            {character: places | anything for character, places in advance.items()}, anything, loops, 1 << at
        )


class Glob:
    """One pattern. Its texts must be given in the form `fold` gives."""

    __slots__ = ("_automaton", "_pieces", "_plain")

    def __init__(self, pattern: str, *, literal: bool = False) -> None:
        """`literal`: `*` and `?` stand for themselves."""
        pattern = fold(pattern)
        self._plain = pattern if literal or _WILDCARDS.search(pattern) is None else None
        self._pieces = (pattern,) if literal else tuple(filter(None, _WILDCARDS.split(pattern)))
        """What any text that matches must contain: tells most texts apart at the speed of C."""
        self._automaton = None if self._plain is not None else _Automaton.of(pattern, literal=False)
        """None where it is seldom needed and quickly made: display names are kept for each room of each user."""

    @property
    def plain(self) -> str | None:
        """The pattern in folded form if it has no wildcard."""
        return self._plain

    def may_match(self, text: str) -> bool:
        """False only if neither `matches` nor `occurs_in` could be true. Far cheaper than they are."""
        return all(piece in text for piece in self._pieces)

    def matches(self, text: str) -> bool:
        """Whether the whole text matches."""
        if self._automaton is None:
            return text == self._plain
        if not self.may_match(text):
            return False
        advance, anything, loops, accept = self._automaton
        places = 1
        for character in text:
            places = (places & advance.get(character, anything)) << 1 | places & loops
            if not places:
                return False
        return bool(places & accept)

    def occurs_in(self, text: str) -> bool:
        """Whether a part of the text matches that begins and ends at word boundaries.

        A boundary is an end of the text or the side of any character but A–Z, a–z, 0–9 and _ (client-server API,
        "Push Rules"); so `@room` is found in `hey@room`, and `room` in `@room`.
        """
        if not self.may_match(text):
            return False
        advance, anything, loops, accept = self._automaton or _Automaton.of(self._plain or "", literal=True)
        places, word_before = 0, False
        for character in text:
            word = character in _WORD
            if not (word and word_before):  # a boundary: a part may end here, and one may begin
                if places & accept:
                    return True
                places |= 1
                if accept == 1:
                    return True
            word_before = word
            places = (places & advance.get(character, anything)) << 1 | places & loops
        return bool(places & accept) or accept == 1


def fold(text: str) -> str:
    """A text as patterns see it: in lower case. The specification leaves the exact meaning to the server."""
    return text.lower()
