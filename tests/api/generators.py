# SPDX-License-Identifier: Apache-2.0
"""Requests that nearly make sense: the table's, with something wrong somewhere.

Owns hypothesis strategies for paths, queries, bodies and headers. A request that is nonsense from end to end is refused
by the first check it meets; these get past the first to whatever lies behind it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, quote_from_bytes

from hypothesis import strategies as st

from tests.api.endpoints import Endpoint
from tests.api.world import World, segment

Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request, ready to be sent."""

    method: str
    target: str
    body: bytes | None
    headers: dict[str, str]


# Values that have broken other servers: beyond a type's range, a column's or an identifier's.
STRINGS = st.one_of(
    st.sampled_from(
        [
            "", " ", "\0", "a\0b", "\ud800", "\udfff\ud800", "\uffff", "\u202e", "’", "𝔘" * 70, "a" * 256, "b" * 70_000,
            "@me:localhost", "@:localhost", "@a:", "@ü:localhost", "@a:other.example", "@" + "a" * 300 + ":localhost",
            "!a:localhost", "!", "!unknown", "!" + "x" * 43, "#a:localhost", "#:", "#" + "é" * 200 + ":localhost",
            "$", "$unknown", "$" + "A" * 43, "$a:localhost", "m.room.message", "m.room.create", "m.room.member",
            "m.room.encrypted", "m.room.redaction", "m.direct", "m.push_rules", "m.fully_read", "displayname",
            "invite", "join", "ban", "leave", "knock", "public", "1", "-1", "1e9", "true", "null", "NaN", "[]", "{}",
            "mxc://a/b", "javascript:alert(1)", "<script>", "%s", "%(x)s", "' OR 1=1 --", "\\", "../..", "*", "**",
            "[" * 40, "(a+)+$", "s1", "t1-1_1", "9" * 30, "main",
        ]
    ),
    st.text(max_size=12),
)  # fmt: skip
NUMBERS = st.one_of(
    st.sampled_from(
        [
            0,
            -1,
            1,
            2,
            100,
            2**31,
            2**32,
            2**53 - 1,
            2**53,
            -(2**53),
            2**63,
            2**64,
            10**40,
            1.0,
            0.5,
            -0.0,
            1e300,
        ]
    ),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True, allow_infinity=True),
)
SCALARS = st.one_of(STRINGS, NUMBERS, st.none(), st.booleans())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=3),
    max_leaves=6,
)
SEGMENTS = st.one_of(
    STRINGS.map(lambda text: quote(text, safe="", errors="surrogatepass")),
    st.binary(min_size=1, max_size=8).map(lambda raw: quote_from_bytes(raw, safe="")),
    st.sampled_from(["%00", "%ff", "%c0%80", "%2F", "%", "%zz", ".", "..", "%2e%2e", "+", "a%20b", ";x=1"]),
)
# What begins as one kind of identifier is looked at more closely than what does not.
KINDRED = {
    "!": ["!unknown", "!unknown:localhost", "!" + "x" * 43, "!x:other.example", "!\0", "!" + "y" * 300],
    "@": [
        "@unknown:localhost",
        "@x:other.example",
        "@x:localhost:99999",
        "@\u202e:localhost",
        "@X:localhost",
    ],
    "$": ["$unknown", "$" + "A" * 43, "$x:localhost", "$" + "z" * 300],
    "#": ["#unknown:localhost", "#x:other.example", "#\0:localhost", "#" + "w" * 300 + ":localhost"],
}


def attempts(world: World, endpoint: Endpoint) -> st.SearchStrategy[Attempt]:
    """Requests to one endpoint."""

    @st.composite
    def build(draw: Draw) -> Attempt:
        target = _path(draw, world, endpoint) + _query(draw, world, endpoint)
        headers = draw(HEADERS)
        body = None
        if endpoint.method != "GET" or draw(st.integers(0, 9)) == 0:
            body = _body(draw, world.fill(endpoint.body))
        return Attempt(endpoint.method, target, body, headers)

    return build()


HEADERS: st.SearchStrategy[dict[str, str]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {},
        optional={
            "Content-Type": st.sampled_from(
                ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "é"]
            ),
            "Content-Encoding": st.sampled_from(["gzip", "br", "identity", "none"]),
            "Accept": st.sampled_from(["text/html", "*/*;q=0", "\x80"]),
            "Accept-Encoding": st.sampled_from(["gzip", "gzip;q=0", "br", "*"]),
            "User-Agent": st.sampled_from(["", "x" * 2000, "é\x80"]),
            "X-Forwarded-For": st.sampled_from(["1.2.3.4", "::1", "nonsense", "1.2.3.4, 5.6.7.8"]),
        },
    ),
)  # fmt: skip


def _path(draw: Draw, world: World, endpoint: Endpoint) -> str:
    """Most often with every parameter as it should be: then the body gets its chance."""
    template = draw(st.sampled_from(endpoint.paths))
    parts = template.split("/")
    places = [at for at, part in enumerate(parts) if part.startswith("{")]
    wrong = draw(st.sampled_from([None] * 4 + places)) if places else None
    for at in places:
        good = world.values[parts[at][1:-1]]
        parts[at] = segment(good)
        if at == wrong:
            kindred = [quote(text, safe="") for text in KINDRED.get(good[:1], [])]
            parts[at] = draw(st.one_of(SEGMENTS, st.sampled_from(kindred)) if kindred else SEGMENTS)
    return "/".join(parts)


def _query(draw: Draw, world: World, endpoint: Endpoint) -> str:
    """Some of the parameters, some of them wrong or twice. A poll is never told to wait."""
    pairs: list[str] = []
    for name, value in world.fill(endpoint.query).items():
        kind = draw(st.integers(0, 5))
        if kind <= 2:
            pairs.append(f"{name}={quote(value)}")
        elif kind <= 4 and name != "timeout":
            pairs.append(f"{name}={draw(_wrong_values(value))}")
    if draw(st.integers(0, 9)) == 0:
        pairs.append(
            draw(st.sampled_from(["_cacheBuster=1", "=", "&&&", "%ff=%ff", "x" * 3000, "access_token="]))
        )
    if "timeout" in endpoint.query:
        pairs.append(
            draw(st.sampled_from(["timeout=0", "timeout=0", "timeout=-1", "timeout=x", "timeout=0.5"]))
        )
    return "?" + "&".join(pairs) if pairs else ""


def _wrong_values(value: str) -> st.SearchStrategy[str]:
    if not value.startswith("{"):
        return SEGMENTS
    spoiled = st.composite(lambda draw: _spoiled(draw, json.loads(value)))()
    return st.one_of(SEGMENTS, spoiled.map(lambda each: quote(_encoded(each))))


def _body(draw: Draw, good: Any) -> bytes:
    """The table's body, most often spoiled in a place or two, sometimes in its bytes."""
    value = good
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 1, 2, 3]))):
        value = _spoiled(draw, value)
    raw = _encoded(value).encode("utf-8", "surrogatepass")
    kind = draw(st.integers(0, 49))
    return _SPOILED_BYTES[kind](draw, raw) if kind < len(_SPOILED_BYTES) else raw


def _encoded(value: Any) -> str:
    """JSON as json.dumps writes it: NaN and Infinity as such, lone surrogates escaped."""
    return json.dumps(value)


_SPOILED_BYTES: list[Callable[[Draw, bytes], bytes]] = [
    lambda draw, raw: b"",
    lambda draw, raw: raw[: draw(st.integers(0, max(0, len(raw) - 1)))],
    lambda draw, raw: raw[:-1] + b"\xff\xfe" + raw[-1:],
    lambda draw, raw: raw.replace(b'"', b'"\xed\xa0\x80', 1),
    lambda draw, raw: b"\xef\xbb\xbf" + raw,
    lambda draw, raw: raw + draw(st.sampled_from([b"}", b"\0", b" ", b"{}", b"/**/", b","])),
    # The first key again, with another value.
    lambda draw, raw: raw[:1] + b'"a":1,"a":2,' + raw[1:] if len(raw) > 2 else raw,
    lambda draw, raw: b'{"x":' * (depth := draw(st.sampled_from([10, 199, 250, 5000]))) + raw + b"}" * depth,
    lambda draw, raw: raw.decode("utf-8", "replace").encode(draw(st.sampled_from(["utf-16", "utf-32"]))),
]


def _spoiled(draw: Draw, good: Any) -> Any:
    """A value with one place of it changed, dropped, added or wrapped."""
    value = copy.deepcopy(good)
    places = _places(value)
    if not places or draw(st.integers(0, 11)) == 0:
        return draw(VALUES)
    holder, key = draw(st.sampled_from(places))
    kind = draw(st.integers(0, 7))
    if kind <= 3:
        holder[key] = draw(VALUES)
    elif kind == 4:
        del holder[key]
    elif kind == 5:
        holder[key] = draw(
            st.sampled_from([[holder[key]], {"a": holder[key]}, [holder[key]] * 60, str(holder[key])])
        )
    elif kind == 6 and isinstance(holder, dict):
        holder[draw(STRINGS)] = draw(VALUES)
    else:
        holder[key] = draw(SCALARS)
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or index) in a JSON value."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, dict | list):
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            found.extend((holder, key) for key in keys)
            waiting.extend(holder[key] for key in keys)
    return found
