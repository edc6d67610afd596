# SPDX-License-Identifier: Apache-2.0
"""Canonical JSON: the one byte form of a JSON value that hashes and signatures are computed over.

Owns the check that a value has such a form and its encoding. Does not own parsing: a parsed value no longer
tells ``-0`` from ``0``, and a parser decides what a number becomes.

Two strictnesses (appendices, "Canonical JSON"; rooms/fragments ``v1-canonical-json``, ``v6-canonical-json``):

- strict, for room versions 6 and later: no floats, integers within ±(2^53 − 1);
- lax, for room versions 1 to 5, which must not enforce that: any integer and any finite float, written as the
  servers that sent such events wrote them (Python's ``json``), since hashes and signatures cover those bytes.
"""

import json
from typing import Any, Final

import orjson

from homeserver.protocol.errors import CanonicalJsonError

MAX_INTEGER: Final = 2**53 - 1
MIN_INTEGER: Final = -MAX_INTEGER

#: Containers within containers. The specification names no limit, every implementation has one; this one
#: leaves room for the envelopes of responses below the 254 levels of the JSON encoder used throughout.
MAX_DEPTH: Final = 200

# orjson sorts keys by their UTF-8 bytes, which is the order of code points, and escapes exactly the
# characters of the canonical grammar; floats and wide integers, where it differs from Python's json, are
# kept away from it.
_OPTIONS: Final = orjson.OPT_SORT_KEYS
_LAX_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False, check_circular=False
)


def encode_canonical(value: object, *, strict: bool = True) -> bytes:
    """The canonical JSON of dicts with string keys, lists, tuples, strings, booleans, numbers and None.

    Raises CanonicalJsonError for anything else, for numbers beyond the strictness asked for, for lone
    surrogates and for nesting deeper than MAX_DEPTH.
    """
    if _survey(value, strict):
        return encode_checked(value)
    try:
        return _LAX_ENCODER.encode(value).encode("utf-8")
    except ValueError as error:  # NaN, infinities, and integers longer than the interpreter will print
        raise CanonicalJsonError(str(error)) from error


def encode_checked(value: object) -> bytes:
    """The canonical JSON of a value that ``check_canonical`` has passed, without a second look at it.

    ``orjson.Fragment`` holding canonical JSON may stand for any part of ``value``.
    """
    return orjson.dumps(value, option=_OPTIONS)


def check_canonical(value: object, *, strict: bool = True) -> None:
    """Raise CanonicalJsonError unless ``encode_canonical`` would accept ``value``.

    The lax check leaves to the encoding what only it can tell: non-finite floats.
    """
    _survey(value, strict)


def _survey(root: object, strict: bool) -> bool:
    """Check types, ranges, text and depth; say whether orjson writes the canonical bytes.

    Goes level by level rather than by recursion, so that hostile nesting costs no stack.
    """
    plain = True
    depth = -1
    level: list[object] = [(root,)]
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise CanonicalJsonError(f"nested deeper than {MAX_DEPTH} levels")
        below: list[object] = []
        for container in level:
            if type(container) is dict:
                _check_keys(container)
                items = container.values()
            else:
                items = container  # type: ignore[assignment]
            for item in items:
                kind = type(item)
                if kind is str:
                    if not item.isascii():
                        _check_text(item)
                elif kind is dict or kind is list or kind is tuple:
                    below.append(item)
                elif kind is int:
                    if not MIN_INTEGER <= item <= MAX_INTEGER:
                        plain = plain and _check_wide(item, strict)
                elif kind is float:
                    plain = _check_wide(item, strict)
                elif kind is not bool and item is not None:
                    raise CanonicalJsonError(f"value of type {kind.__name__}")
        level = below
    return plain


def _check_keys(container: dict[Any, object]) -> None:
    for key in container:
        if type(key) is not str:
            raise CanonicalJsonError(f"object key of type {type(key).__name__}")
        if not key.isascii():
            _check_text(key)


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CanonicalJsonError("text with a lone surrogate") from error


def _check_wide(number: float, strict: bool) -> bool:
    """Refuse ``number`` if strict; else say that it needs the lax encoder (always False)."""
    if not strict:
        return False
    if type(number) is float:
        raise CanonicalJsonError("floats have no canonical form")
    raise CanonicalJsonError("integer outside ±(2^53 − 1)")
