# SPDX-License-Identifier: Apache-2.0
"""Request bodies: from bytes to JSON to typed arguments.

Owns what is JSON here and the errors of what is not: M_NOT_JSON for bytes that do not parse (bad UTF-8, NaN,
lone surrogates, a byte order mark and bottomless nesting included), M_BAD_JSON for what parses and cannot be meant.
The body's content type is not looked at: the specification makes it optional. Of a key given twice the last counts,
and since everything is encoded anew before it is stored or sent on, nobody downstream sees the first.

An endpoint declares its body as a `msgspec.Struct` and gets typed attributes:

    class LoginBody(Struct):
        type: str                                          # required
        identifier: dict[str, Any] | None = None           # optional; here null is as good as absent
        initial_device_display_name: str | None = None
        fully_read: str | None = msgspec.field(name="m.fully_read", default=None)

    body = request.body(LoginBody)          # M_BAD_JSON: "$.type: Expected `str`, got `int`"

Types are strict (no "1" for 1, no true for 1, no 1.0 for 1); unknown keys are ignored; `X | None` accepts null, plain
`X` does not; `Annotated[int, Meta(ge=0)]` and `Literal["a", "b"]` give ranges and choices. msgspec was taken over
readers by hand because the declaration is the documentation, and checking costs under a microsecond.
"""

import json
from typing import Any, Final, TypeVar, dataclass_transform

import msgspec
import orjson

from homeserver.errors import BadJson, NotJson

T = TypeVar("T")

#: Deep enough for any event; a value this deep can still be encoded inside the envelopes of responses
#: (orjson stops at 254 levels).
MAX_DEPTH: Final = 200
_SHALLOW: Final = 20
"""What costs little to find out; at most half of MAX_DEPTH."""
_LARGEST: Final = 2**53 - 1
#: How many values may be in any JSON that is looked at, and how many bytes each of the others must take: events of
#: other servers are shorter than what clients bring much of, which is keys and ciphertexts.
_MOST_SMALL_VALUES: Final = 1 << 17
_LEAST_BYTES: Final = 12
_LEAST_BYTES_OF_CLIENTS: Final = 48
_ANYTHING: Final = 512 * 1024
"""Bytes of a client's body that may be values and nothing else, as account data may."""
_TOO_MANY: Final = "The JSON has too many values for its size"
_PORTION: Final = 1 << 20
#: Every digit to 0 and every e to e: in this form it takes a tenth of a regular expression's time to find a number
#: that may be long, in a body that a request about many devices has.
_SHAPE: Final = bytes(
    48 if chr(byte) in "0123456789" else 101 if chr(byte) in "eE" else 32 for byte in range(256)
)
_BESIDE_STRUCTURE: Final = bytes(byte for byte in range(256) if byte not in b'"\\[]{}')
_BESIDE_MARKS: Final = bytes(byte for byte in range(256) if byte not in b'",[{')
_LONG: Final = b"0" * 16
_SMALL: Final = 4096
_DEEPEST: Final = 254
"""What orjson encodes."""
_LONG_MARKS: Final = (b"\xcb", b"\xcf", b"\xd3")
"""MessagePack's of floats, and of integers that take 64 bits with and without sign."""
_BEYOND_64_BITS: Final = b"0" * 19


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,))
class Struct(msgspec.Struct, frozen=True, kw_only=True):
    """Base of declared bodies: immutable, named fields."""


def parse_json(raw: bytes) -> Any:
    """The value of a body. Raises NotJson and BadJson.

    Integers are within ±(2^53 − 1), containers at most MAX_DEPTH deep. A large body that would take many times its size
    in memory, and hold everybody up while it is decoded, is BadJson: no API has such bodies.
    """
    if len(raw) > _ANYTHING and _is_dense(raw, _LEAST_BYTES_OF_CLIENTS):
        raise BadJson(_TOO_MANY)
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise NotJson(None if raw else "The request has no body") from error
    # No value of an ordinary body is looked at: first it is asked whether there could be anything.
    if _may_be_odd(value) if len(raw) > _SMALL else _may_be_deep(raw) or _may_hold_long_number(raw):
        _survey(value)
    return value


def _may_be_odd(value: object) -> bool:
    """Whether a value is deeper than MAX_DEPTH or may hold a number that is a fraction or has more than 32 bits.

    Encoding it takes a tenth of the time that looking at a large body's bytes does, whose keys and ciphertexts are full
    of digits: orjson refuses what is too deep, and MessagePack marks such numbers with bytes that are in few texts.
    """
    around = value
    for _ in range(_DEEPEST - MAX_DEPTH):
        around = [around]
    try:
        orjson.dumps(around)
        packed = msgspec.msgpack.encode(value)
    except (TypeError, RecursionError):
        return True
    return any(mark in packed for mark in _LONG_MARKS)


def _may_be_deep(raw: bytes) -> bool:
    """Whether JSON may be deeper than MAX_DEPTH: False for what is shallow and has no brackets within strings."""
    structure = raw.translate(None, _BESIDE_STRUCTURE)
    if structure.count(b"[") + structure.count(b"{") <= MAX_DEPTH:
        return False
    if b"\\" in structure:
        return True
    # Of a string with a bracket its quotes remain: an even number of them stands before it.
    structure = structure.replace(b'""', b"")
    if b'"' in structure:
        return True
    for _ in range(_SHALLOW):  # each takes away one level or two
        structure = structure.replace(b"{}", b"").replace(b"[]", b"")
        if not structure:
            return False
    return True


def _may_hold_long_number(raw: bytes) -> bool:
    """Whether there are 16 digits in a row or an exponent, in a string or not."""
    shape = raw.translate(_SHAPE)
    return b"0e" in shape or _LONG in shape


def parse_signed(raw: bytes) -> Any:
    """The value of what another server signed or answered. Raises NotJson and BadJson.

    Events of room versions 1 to 5 may hold any integer and any finite float, and their signatures cover them: integers
    come out exactly, however long. Containers are at most MAX_DEPTH deep. Twelve megabytes of `[],` would take a second
    and four hundred megabytes to decode: what has far more values than events and keys of its size is BadJson.
    """
    if len(raw) > _MOST_SMALL_VALUES and _is_dense(raw, _LEAST_BYTES):
        raise BadJson(_TOO_MANY)
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise NotJson(None if raw else "The request has no body") from error
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    if _BEYOND_64_BITS in raw.translate(_SHAPE):  # of those orjson makes floats
        try:
            value = json.loads(raw)
        except ValueError as error:  # longer than the interpreter will read
            raise BadJson("A number is too long") from error
    return value


def _is_dense(raw: bytes, least_bytes: int) -> bool:
    """Whether decoding would fill memory out of proportion; cheap for what is not suspicious.

    Most bodies have too few quotes, commas and brackets for that, wherever these stand. Looking beside the strings
    costs by their number: so that has the same limit, and is asked first.
    """
    most = _MOST_SMALL_VALUES + len(raw) // least_bytes
    if len(raw.translate(None, _BESIDE_MARKS)) <= most:
        return False
    if (raw.count(b'"') - raw.count(b'\\"')) // 2 > most:
        return True
    return _separators(raw) > most and _has_more_beside_strings(raw, most)


def _separators(raw: bytes) -> int:
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def _has_more_beside_strings(raw: bytes, most: int) -> bool:
    """Texts may well be full of commas. A string without end goes to the end, which is for the parser to refuse."""
    bare = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    found, inside = 0, 0
    for start in range(0, len(bare), _PORTION):
        parts = bare[start : start + _PORTION].split(b'"')
        found += _separators(b"".join(parts[inside::2]))
        if found > most:
            return True
        inside ^= (len(parts) - 1) & 1
    return False


def parse_object(raw: bytes, *, empty_ok: bool = False) -> dict[str, Any]:
    """The body as a JSON object; `{}` for no body at all if that is allowed. Raises NotJson and BadJson."""
    if not raw and empty_ok:
        return {}
    value = parse_json(raw)
    if type(value) is not dict:
        raise BadJson("The request body must be a JSON object")
    return value


def parse_typed(raw: bytes, kind: type[T], *, empty_ok: bool = False) -> T:
    """The body as a declared type. Raises NotJson and BadJson, whose message names the field.

    Strings must be free of NUL, which no identifier or name can contain and Postgres cannot store; a body that
    carries event content is read with `parse_object`, where it may stand.
    """
    return typed(parse_object(raw, empty_ok=empty_ok), raw, kind)


def typed(value: dict[str, Any], raw: bytes, kind: type[T]) -> T:
    """The parsed body `raw` as a declared type. Raises as `parse_typed`."""
    if b"\\u0000" in raw and _contains_nul(value):
        raise BadJson("The request body contains NUL")
    return convert(value, kind)


def convert(value: object, kind: type[T]) -> T:
    """A parsed value as a declared type, for parts of a body. Raises BadJson."""
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).rpartition(" - at ")
        raise BadJson(f"{place.strip('`')}: {reason}" if reason else str(error)) from error


def _survey(root: object) -> None:
    """Level by level, so that hostile nesting costs no stack."""
    level: list[Any] = [root]
    for _depth in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                below.extend(item.values())
            elif kind is list:
                below.extend(item)
            elif (kind is int or kind is float) and not -_LARGEST <= item <= _LARGEST:
                raise BadJson("Numbers must be within ±(2^53 − 1)")
        if not below:
            return
        level = below
    raise BadJson(f"The request body is nested deeper than {MAX_DEPTH} levels")


def _check_depth(root: object) -> None:
    level: list[Any] = [root]
    for _depth in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if type(item) is dict:
                below.extend(item.values())
            elif type(item) is list:
                below.extend(item)
        if not below:
            return
        level = below
    raise BadJson(f"The JSON is nested deeper than {MAX_DEPTH} levels")


def _contains_nul(root: object) -> bool:
    waiting: list[Any] = [root]
    while waiting:
        item = waiting.pop()
        if type(item) is str:
            if "\0" in item:
                return True
        elif type(item) is dict:
            waiting.extend(item)
            waiting.extend(item.values())
        elif type(item) is list:
            waiting.extend(item)
    return False
