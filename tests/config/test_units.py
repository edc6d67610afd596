# SPDX-License-Identifier: Apache-2.0
"""Durations and sizes are read as written and written as read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.config.units import (
    Bytes,
    Seconds,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1h", 3600),
        ("90s", 90),
        ("1h 30m", 5400),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("0s", 0),
        ("2w", 1209600),
        ("1.5d", 129600),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """Parts add up; a space between them is free."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "5", "h", "1x", "-1h", "1h-", "1 hour", "١h"])
def test_what_is_no_duration(text: str) -> None:
    """A number without a unit is nobody's guess."""
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("256MiB", 2**28),
        ("1.5 GiB", 3 * 2**29),
        ("10MB", 10**7),
        ("64k", 2**16),
        ("7B", 7),
        ("0B", 0),
        ("1tib", 2**40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    """Binary and decimal units, in any case."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5", "MiB", "1XB", "-1MiB", "1MiB 2KiB"])
def test_what_is_no_size(text: str) -> None:
    """A number without a unit is nobody's guess."""
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@given(st.integers(0, 10**12))
def test_a_written_duration_reads_back(milliseconds: int) -> None:
    """The notation keeps every millisecond."""
    value = Seconds(milliseconds / 1000)
    assert parse_duration(format_duration(value)) == pytest.approx(value)


@given(st.integers(0, 2**50))
def test_a_written_size_reads_back(size: int) -> None:
    """The notation keeps every byte."""
    assert parse_size(format_size(Bytes(size))) == size
