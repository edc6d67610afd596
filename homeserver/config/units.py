# SPDX-License-Identifier: Apache-2.0
"""Durations and sizes, as people write them ("1h 30m", "256MiB") and as the server counts them.

Owns both notations, in both directions: seconds and bytes. Does not know where in a configuration they stand.
"""

import re
from typing import Final, NewType

Seconds = NewType("Seconds", float)
"""A length of time in seconds."""

Bytes = NewType("Bytes", int)
"""An amount of memory or data in bytes."""

_DURATIONS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SIZES: Final = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "K": 2**10,
    "M": 2**20,
    "G": 2**30,
    "T": 2**40,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_DURATION_PART: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|[smhdw])", re.ASCII)
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", re.ASCII)


def parse_duration(text: str) -> Seconds:
    """Read "500ms", "90s", "5m", "1h 30m", "7d" or "2w".

    Raises ValueError where the text is anything else; a bare number has no unit and is refused.
    """
    total, at = 0.0, 0
    while at < len(text.rstrip()):
        part = _DURATION_PART.match(text, at)
        if part is None:
            raise ValueError(f"not a duration: {text!r}")
        total += float(part[1]) * _DURATIONS[part[2]]
        at = part.end()
    if at == 0:
        raise ValueError("not a duration: it is empty")
    return Seconds(total)


def format_duration(value: Seconds) -> str:
    """The shortest notation `parse_duration` reads back to the same number of milliseconds."""
    milliseconds = round(value * 1000)
    if milliseconds == 0:
        return "0s"
    for unit in ("w", "d", "h", "m", "s"):
        count, rest = divmod(milliseconds, round(_DURATIONS[unit] * 1000))
        if count and not rest:
            return f"{count}{unit}"
    return f"{milliseconds}ms"


def parse_size(text: str) -> Bytes:
    """Read "512KiB", "256MiB", "1.5 GiB", "10MB"; K, M, G and T alone count in powers of 1024.

    Raises ValueError where the text is anything else.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = _SIZES.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise ValueError(f"not a size: {text!r}")
    return Bytes(round(float(match[1]) * unit))


def format_size(value: Bytes) -> str:
    """The shortest notation `parse_size` reads back to the same number of bytes."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        count, rest = divmod(value, _SIZES[unit.upper()])
        if count and not rest:
            return f"{count}{unit}"
    return f"{value}B"
