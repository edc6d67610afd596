# SPDX-License-Identifier: Apache-2.0
"""Bodies that are values and nothing else, which take many times their size, and bodies that only look so."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import orjson
import pytest

from homeserver.errors import BadJson
from homeserver.web.bodies import parse_json, parse_object, parse_signed

KIB, MIB = 1 << 10, 1 << 20
ACCOUNT_DATA, ANY, TO_DEVICE, ROOM_KEYS = 512 * KIB, 2 * MIB, 8 * MIB, 16 * MIB
"""How long bodies of the client APIs may be."""

KEY = "k" * 43
USER = "@u{n}:example.org"
SIGNATURES = f'"signatures":{{"@u:example.org":{{"ed25519:ABCDEFGHIJ":"{KEY * 2}"}}}}'
OLM = (
    f'{{"algorithm":"m.olm.v1.curve25519-aes-sha2","ciphertext":{{"{KEY}":{{"body":"{"c" * 500}","type":0}}}},'
    f'"org.matrix.msgid":"0123456789abcdef0123456789abcdef","sender_key":"{KEY}"}}'
)
DEVICE_KEYS = (
    '{"algorithms":["m.olm.v1.curve25519-aes-sha2","m.megolm.v1.aes-sha2"],"device_id":"ABCDEFGHIJ",'
    f'"keys":{{"curve25519:ABCDEFGHIJ":"{KEY}","ed25519:ABCDEFGHIJ":"{KEY}"}},{SIGNATURES},"user_id":"@u:example.org"}}'
)
BACKED_UP = (
    '{"first_message_index":0,"forwarded_count":0,"is_verified":false,'
    f'"session_data":{{"ciphertext":"{"c" * 800}","ephemeral":"{KEY}","mac":"AAAAAAAAAAA"}}}}'
)
PUSH_RULE = (
    '{"actions":["notify",{"set_tweak":"highlight"}],"conditions":[{"key":"type","kind":"event_match","pattern":"a"}],'
    '"default":false,"enabled":true,"rule_id":"rule{n}"}'
)

HONEST = {
    "to ten thousand devices": ('{"messages":{', f'"{USER}":{{"ABCDEFGHIJ":{{}}}}', "}}", 10_000, TO_DEVICE),
    "to all of ten thousand": ('{"messages":{', f'"{USER}":{{"*":{{"a":1}}}}', "}}", 10_000, TO_DEVICE),
    "to ten thousand of one": ('{"messages":{"@u:a.b":{', '"D{n}":{"a":[0]}', "}}}", 10_000, TO_DEVICE),
    "room keys to devices": ('{"messages":{', f'"{USER}":{{"ABCDEFGHIJ":{OLM}}}', "}}", None, TO_DEVICE),
    "/keys/query": ('{"device_keys":{', f'"{USER}":[]', "}}", 10_000, ANY),
    "/keys/query, whatever fits": ('{"device_keys":{', f'"{USER}":[]', "}}", None, ANY),
    "/keys/query of devices": ('{"device_keys":{', f'"{USER}":["A","B"]', "}}", 10_000, ANY),
    "/keys/claim": (
        '{"one_time_keys":{',
        f'"{USER}":{{"ABCDEFGHIJ":"signed_curve25519"}}',
        "}}",
        None,
        ANY,
    ),
    "/keys/upload": (
        '{"one_time_keys":{',
        f'"signed_curve25519:{{n}}":{{"key":"{KEY}",{SIGNATURES}}}',
        "}}",
        None,
        ANY,
    ),
    "/keys/signatures/upload": ('{"@u:example.org":{', f'"D{{n}}":{DEVICE_KEYS}', "}}", None, ANY),
    "/room_keys/keys": (
        '{"rooms":{"!r:example.org":{"sessions":{',
        f'"{KEY}{{n}}":{BACKED_UP}',
        "}}}}",
        None,
        ROOM_KEYS,
    ),
    "m.direct": ("{", f'"{USER}":["!{{n}}:a.b","!x{{n}}:a.b"]', "}", None, ACCOUNT_DATA),
    "m.ignored_user_list": ('{"ignored_users":{', f'"{USER}":{{}}', "}}", None, ACCOUNT_DATA),
    "m.push_rules": ('{"global":{"override":[', PUSH_RULE, "]}}", None, ACCOUNT_DATA),
    "numbers as account data": ('{"points":[', "0", "]}", None, ACCOUNT_DATA),
    "objects as account data": ('{"points":[', '{"x":1,"y":2}', "]}", None, ACCOUNT_DATA),
    "/createRoom": ('{"preset":"private_chat","invite":[', f'"{USER}"', "]}", None, ANY),
    "initial state": (
        '{"initial_state":[',
        f'{{"type":"m.x","state_key":"{USER}","content":{{}}}}',
        "]}",
        None,
        ANY,
    ),
    "power levels": ('{"power_level_content_override":{"users":{', f'"{USER}":50', "}}}", None, ANY),
    "a filter": ('{"room":{"not_rooms":[', '"!abcdefgh{n}:example.org"', "]}}", None, ANY),
    "/delete_devices": ('{"devices":[', '"ABCDEF{n}"', "]}", None, ANY),
    "a text full of commas": ('{"body":"', "a,[{", '"}', None, ANY),
    "a text full of quotes": ('{"body":"', '\\"a\\"', '"}', None, ANY),
}

DENSE: dict[str, Callable[[int], str]] = {
    "lists": lambda size: "[]," * (size // 3) + "0",
    "lists in lists": lambda size: ("[" * 150 + "]" * 150 + ",") * (size // 301) + "0",
    "objects in objects": lambda size: ('{"":' * 150 + "0" + "}" * 150 + ",") * (size // 752) + "0",
    "objects": lambda size: '{"a":0},' * (size // 8) + "0",
    "texts": lambda size: '"a",' * (size // 4) + "0",
    "texts with quotes": lambda size: '"\\"",' * (size // 5) + "0",
    "numbers": lambda size: "7," * (size // 2) + "0",
    "half of it": lambda size: "[]," * (size // 6) + f'"{"a" * (size // 2)}"',
    "behind a quote": lambda size: '"\\\\\\"",' + "[]," * (size // 3) + "0",
}


def _body(opening: str, entry: str, closing: str, most: int | None, size: int) -> bytes:
    """So many entries, or as many as fit."""
    parts: list[str] = []
    left = size - len(opening) - len(closing)
    for number in count():
        part = entry.replace("{n}", str(number))
        left -= len(part) + 1
        if left < 0 or number == most:
            return (opening + ",".join(parts) + closing).encode()
        parts.append(part)
    raise AssertionError


@pytest.mark.parametrize("name", HONEST)
def test_no_api_has_a_body_that_is_refused(name: str) -> None:
    """However long it may be."""
    raw = _body(*HONEST[name])
    assert parse_json(raw) == orjson.loads(raw)


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("size", [ANY, TO_DEVICE, ROOM_KEYS])
def test_values_and_nothing_else_are_refused(name: str, size: int) -> None:
    """Wherever in the body they are: of a client, beside what its API knows; of another server."""
    raw = b'{"messages":{},"x":[%b]}' % DENSE[name](size - 30).encode()
    assert len(raw) > size * 0.99
    with pytest.raises(BadJson):
        parse_object(raw)
    with pytest.raises(BadJson):
        parse_signed(raw)


@pytest.mark.parametrize("name", DENSE)
def test_what_is_short_may_be_anything(name: str) -> None:
    """Account data may be half a MiB of whatever it is, and that does little harm."""
    raw = b"[%b]" % DENSE[name](ACCOUNT_DATA - 30).encode()
    assert type(parse_json(raw)) is list
