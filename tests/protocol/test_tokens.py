# SPDX-License-Identifier: Apache-2.0
"""Tokens are read back as they were written, and nothing else is taken for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.protocol.tokens import PlaceToken, SyncToken, TokenError

POSITIONS = st.integers(0, 2**63 - 1)


@given(POSITIONS, POSITIONS)
def test_sync_tokens_survive_the_client(position: int, ephemeral: int) -> None:
    """Writing, then reading, gives the same token."""
    token = SyncToken(position, ephemeral)
    assert SyncToken.parse(str(token)) == token


@given(POSITIONS, st.integers(-(2**63) + 1, 2**63 - 1))
def test_place_tokens_survive_the_client(depth: int, position: int) -> None:
    """Also for history that was never streamed, whose positions are negative."""
    token = PlaceToken(depth, position)
    assert PlaceToken.parse(str(token)) == token


def test_a_bare_position_is_a_sync_token() -> None:
    assert SyncToken.parse("s72") == SyncToken(72, 0)


def test_the_place_after_an_event_includes_it() -> None:
    """Pages backwards take what is strictly less than the place."""
    assert PlaceToken(4, 9) < PlaceToken.after(4, 9) < PlaceToken(5, 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "72",
        "s-1",
        "s1_",
        "s1_2_3_4",
        "S1",
        "s1 ",
        " s1",
        "s１",
        "t1_2",
        "s99999999999999999999",
        "null",
        "s1\n",
    ],
)
def test_other_strings_are_no_sync_tokens(text: str) -> None:
    with pytest.raises(TokenError):
        SyncToken.parse(text)


@pytest.mark.parametrize(
    "text", ["", "t1", "s1_2", "t-1_2", "t1_2_3", "t1_99999999999999999999", "t1_--2", "t1_２"]
)
def test_other_strings_are_no_place_tokens(text: str) -> None:
    with pytest.raises(TokenError):
        PlaceToken.parse(text)


def test_a_token_says_where_messages_to_the_device_broke_off() -> None:
    """Only if they did: a token that goes on everywhere from one position stays as short as it was."""
    assert SyncToken.parse("s7_5_3") == SyncToken(7, 5, 3) and str(SyncToken(7, 5, 3)) == "s7_5_3"
    assert SyncToken(7, 5, 3).to_device_told == 3
    assert str(SyncToken(7, 5)) == "s7_5" and SyncToken(7, 5).to_device_told == 7
