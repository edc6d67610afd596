# SPDX-License-Identifier: Apache-2.0
"""The query parameters of a request, read by name and type.

Owns their decoding and the errors of wrong ones: M_MISSING_PARAM and M_INVALID_PARAM, naming the parameter. Parameters
nobody asks for are ignored, however broken they are, as clients add their own (`_cacheBuster`).
"""

from collections.abc import Sequence
from typing import TypeVar, overload
from urllib.parse import unquote_to_bytes

from homeserver.errors import InvalidParam, MissingParam

E = TypeVar("E", bound=str)

_MOST_PARAMETERS = 1000
_LARGEST_INTEGER = 2**53 - 1


class Query:
    """The query string of one request, taken apart at the first question."""

    __slots__ = ("_parsed", "_raw")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._parsed: dict[bytes, list[bytes]] | None = None

    def has(self, name: str) -> bool:
        """Whether the parameter is there, empty or not."""
        return name.encode() in self._parameters()

    def strings(self, name: str) -> list[str]:
        """Every value of a parameter that may repeat, in order."""
        return [_text(name, value) for value in self._parameters().get(name.encode(), ())]

    @overload
    def string(self, name: str) -> str | None: ...
    @overload
    def string(self, name: str, default: str) -> str: ...
    def string(self, name: str, default: str | None = None) -> str | None:
        """The parameter, or `default`. Given more than once, the last counts."""
        values = self._parameters().get(name.encode())
        return default if values is None else _text(name, values[-1])

    def required(self, name: str) -> str:
        """The parameter. Raises MissingParam."""
        value = self.string(name)
        if value is None:
            raise MissingParam(f"Missing query parameter {name}")
        return value

    @overload
    def integer(self, name: str, *, minimum: int = ..., maximum: int = ...) -> int | None: ...
    @overload
    def integer(self, name: str, default: int, *, minimum: int = ..., maximum: int = ...) -> int: ...
    def integer(
        self,
        name: str,
        default: int | None = None,
        *,
        minimum: int = -_LARGEST_INTEGER,
        maximum: int = _LARGEST_INTEGER,
    ) -> int | None:
        """The parameter as a decimal number, or `default`. Raises InvalidParam, also outside the range."""
        value = self.string(name)
        if value is None:
            return default
        digits = value.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 16):
            raise InvalidParam(f"Query parameter {name} must be an integer")
        number = int(value)
        if not minimum <= number <= maximum:
            raise InvalidParam(f"Query parameter {name} must be between {minimum} and {maximum}")
        return number

    def boolean(self, name: str, default: bool = False) -> bool:
        """The parameter, which must be `true` or `false`, or `default`. Raises InvalidParam."""
        value = self.string(name)
        if value is None:
            return default
        if value not in {"true", "false"}:
            raise InvalidParam(f"Query parameter {name} must be true or false")
        return value == "true"

    @overload
    def enum(self, name: str, allowed: Sequence[E]) -> E | None: ...
    @overload
    def enum(self, name: str, allowed: Sequence[E], default: E) -> E: ...
    def enum(self, name: str, allowed: Sequence[E], default: E | None = None) -> E | None:
        """The parameter, which must be one of `allowed`, or `default`. Raises InvalidParam."""
        value = self.string(name)
        if value is None:
            return default
        for each in allowed:
            if each == value:
                return each
        raise InvalidParam(f"Query parameter {name} must be one of {', '.join(allowed)}")

    def _parameters(self) -> dict[bytes, list[bytes]]:
        if self._parsed is None:
            self._parsed = _parse(self._raw)
        return self._parsed


def _parse(raw: bytes) -> dict[bytes, list[bytes]]:
    """Raises InvalidParam where there are more parameters than anyone means."""
    parsed: dict[bytes, list[bytes]] = {}
    if not raw:
        return parsed
    parts = raw.split(b"&")
    if len(parts) > _MOST_PARAMETERS:
        raise InvalidParam("Too many query parameters")
    for part in parts:
        if part:
            name, _, value = part.partition(b"=")
            parsed.setdefault(_decoded(name), []).append(_decoded(value))
    return parsed


def _decoded(raw: bytes) -> bytes:
    if b"+" in raw:
        raw = raw.replace(b"+", b" ")
    return unquote_to_bytes(raw) if b"%" in raw else raw


def _text(name: str, value: bytes) -> str:
    """NUL is refused with what is not UTF-8: nothing that parameters name can contain it, Postgres cannot store it."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidParam(f"Query parameter {name} is not UTF-8") from error
    if "\0" in text:
        raise InvalidParam(f"Query parameter {name} contains NUL")
    return text
