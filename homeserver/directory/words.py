# SPDX-License-Identifier: Apache-2.0
"""How names become words to search by: without case, accents and punctuation. Pure.

Done here rather than in Postgres, whose rules depend on the locale a database happened to be made with.
"""

from __future__ import annotations

import re
import unicodedata

from homeserver.protocol.identifiers import localpart_of

MOST_WORDS = 24
LONGEST_WORD = 64
_WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> list[str]:
    """The words of a text, folded, each once, in order; of very long texts the first ones."""
    decomposed = unicodedata.normalize("NFKD", text[:2000].casefold())
    plain = "".join(c for c in decomposed if not unicodedata.combining(c))
    words = [word[:LONGEST_WORD] for word in _WORD.findall(plain)]
    return list(dict.fromkeys(words))[:MOST_WORDS]


def words_of_user(user_id: str, display_name: str | None) -> list[str]:
    """The words a user is found by: those of the localpart and of the display name."""
    return list(dict.fromkeys(words_of(localpart_of(user_id)) + words_of(display_name or "")))
