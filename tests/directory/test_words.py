# SPDX-License-Identifier: Apache-2.0
"""How names become words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.directory.words import LONGEST_WORD, MOST_WORDS, words_of, words_of_user


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ärger im Café", ["arger", "im", "cafe"]),
        ("j.doe_2-x=3/y+z", ["j", "doe", "2", "x", "3", "y", "z"]),
        ("STRASSE Straße", ["strasse"]),
        ("山田太郎", ["山田太郎"]),
        ("ﬁn ②", ["fin", "2"]),
        ("'\\ & | ! :* ( )", []),
        ("", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@given(st.text(), st.text())
def test_any_text_gives_few_short_words_of_letters_and_digits(localpart: str, name: str) -> None:
    """Nothing that would be syntax in a query, nothing empty, nothing twice."""
    words = words_of_user(f"@{localpart}:localhost", name)
    assert len(words) == len(set(words)) <= 2 * MOST_WORDS
    assert all(0 < len(word) <= LONGEST_WORD and word.isalnum() for word in words)
