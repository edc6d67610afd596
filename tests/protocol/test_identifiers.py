# SPDX-License-Identifier: Apache-2.0
"""Identifier grammars, as tables of what is in and what is out."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.protocol import identifiers
from homeserver.protocol.errors import IdentifierError
from homeserver.protocol.identifiers import (
    KeyId,
    MxcUri,
    ServerName,
    check_compliant_user_id,
    check_event_id_with_domain,
    check_new_user_id,
    check_room_id_with_domain,
    check_room_id_without_domain,
    domain_of,
    is_ip_literal,
    is_valid_event_id,
    is_valid_mxc_uri,
    is_valid_namespaced_identifier,
    is_valid_opaque_identifier,
    is_valid_room_alias,
    is_valid_room_id,
    is_valid_server_name,
    is_valid_user_id,
    localpart_of,
    map_to_localpart,
    parse_key_id,
    parse_mxc_uri,
    parse_server_name,
    user_id_for_registration,
)

HASH = "Nhcu5BS-UMnFX7hBVfVSoXiD7OgH6iRT-xyIuqDnpYQ"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("matrix.org", ("matrix.org", None)),
        ("matrix.org:8888", ("matrix.org", 8888)),
        ("MATRIX.org", ("MATRIX.org", None)),
        ("localhost", ("localhost", None)),
        ("1.2.3.4", ("1.2.3.4", None)),
        ("1.2.3.4:1234", ("1.2.3.4", 1234)),
        ("1.2.3.4.5", ("1.2.3.4.5", None)),
        ("[1234:5678::abcd]", ("[1234:5678::abcd]", None)),
        ("[1234:5678::abcd]:5678", ("[1234:5678::abcd]", 5678)),
        ("[::ffff:1.2.3.4]", ("[::ffff:1.2.3.4]", None)),
        ("a" * 255, ("a" * 255, None)),
    ],
)
def test_server_names(name: str, parts: tuple[str, int | None]) -> None:
    assert parse_server_name(name) == ServerName(*parts)
    assert is_valid_server_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ":80",
        "a:",
        "a:b",
        "a:123456",
        "a:65536",
        "a:1:2",
        "a b",
        "a/b",
        "a_b",
        "ex\nample",
        "example.org\n",
        "256.1.1.1",
        "1.2.3.999",
        "::1",
        "[::1",
        "[1]",
        "[::g]",
        "[1.2.3.4]",
        "[]",
        "é.org",
        "a" * 256,
        "a:٣",
        "a@b",
    ],
)
def test_not_server_names(name: str) -> None:
    assert not is_valid_server_name(name)


@pytest.mark.parametrize(
    ("name", "literal"), [("1.2.3.4:1", True), ("[::1]", True), ("a.b", False), ("1.2.3.4.5", False)]
)
def test_ip_literals_are_told_from_names(name: str, literal: bool) -> None:
    assert is_ip_literal(name) is literal


@pytest.mark.parametrize("localpart", ["a", "a-z0.9_=/+", "0"])
def test_user_ids_of_today(localpart: str) -> None:
    check_new_user_id(f"@{localpart}:example.org:8448")


@pytest.mark.parametrize("localpart", ["A", "a b", "é", "*", "", "\x01", "~"])
def test_historical_user_ids_are_accepted_but_not_made(localpart: str) -> None:
    user_id = f"@{localpart}:example.org"
    assert is_valid_user_id(user_id)
    with pytest.raises(IdentifierError):
        check_new_user_id(user_id)


@pytest.mark.parametrize(
    ("localpart", "compliant"), [("A*~!", True), ("", False), ("a b", False), ("é", False), ("\x7f", False)]
)
def test_compliance_of_historical_user_ids(localpart: str, compliant: bool) -> None:
    user_id = f"@{localpart}:example.org"
    if compliant:
        check_compliant_user_id(user_id)
    else:
        with pytest.raises(IdentifierError):
            check_compliant_user_id(user_id)


WITH_DOMAIN: list[tuple[str, Callable[[str], bool]]] = [
    ("@", is_valid_user_id),
    ("#", is_valid_room_alias),
    ("!", is_valid_room_id),
]


@pytest.mark.parametrize(("sigil", "is_valid"), WITH_DOMAIN)
def test_identifiers_with_a_domain(sigil: str, is_valid: Callable[[str], bool]) -> None:
    domain = ":example.org"
    assert is_valid(f"{sigil}any thing é{domain}")
    assert is_valid(sigil + "a" * (254 - len(domain)) + domain)
    assert not is_valid(sigil + "a" * (255 - len(domain)) + domain)
    assert not is_valid(sigil + "é" * 122 + domain)  # 257 bytes in 135 characters
    for bad in ("", sigil, sigil + "a", sigil + "a:", "a:example.org", "a" + sigil + ":example.org"):
        assert not is_valid(bad)
    for bad in (
        sigil + "a\0b:example.org",
        sigil + "\ud800:example.org",
        sigil + "a:b:c",
        sigil + "a:ex ample",
    ):
        assert not is_valid(bad)


def test_room_ids_of_both_forms() -> None:
    check_room_id_without_domain("!" + HASH)
    check_room_id_with_domain("!" + HASH + ":example.org")
    assert is_valid_room_id("!" + HASH)
    for bad in (
        "!" + HASH[:-1],
        "!" + HASH + "A",
        "$" + HASH,
        "!" + HASH[:-1] + "+",
        "!" + HASH[:-1] + "\n",
        "!",
        "",
    ):
        assert not is_valid_room_id(bad)
    with pytest.raises(IdentifierError):
        check_room_id_with_domain("!" + HASH)
    with pytest.raises(IdentifierError):
        check_room_id_without_domain("!abc:example.org")


def test_event_ids() -> None:
    check_event_id_with_domain("$abc:example.org")
    for good in (
        "$" + HASH,
        "$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk",
        "$abc:example.org",
        "$" + "a" * 254,
    ):
        assert is_valid_event_id(good)
    for bad in ("", "$", HASH, "!" + HASH, "$" + "a" * 255, "$" + "é" * 128, "$\udc00"):
        assert not is_valid_event_id(bad)
    with pytest.raises(IdentifierError):
        check_event_id_with_domain("$" + HASH)


def test_parts_of_identifiers() -> None:
    assert domain_of("@user:example.org:8448") == "example.org:8448"
    assert domain_of("#a:[::1]:80") == "[::1]:80"
    assert localpart_of("@user:example.org:8448") == "user"
    for bad in ("@user", "@user:", "!" + HASH):
        with pytest.raises(IdentifierError):
            domain_of(bad)


def test_names_asked_for_at_registration() -> None:
    assert user_id_for_registration("Alice", "example.org") == "@alice:example.org"
    for bad in ("", "al ice", "élice", "alice:example.org", "@alice", "alice\n", "a" * 255):
        with pytest.raises(IdentifierError):
            user_id_for_registration(bad, "example.org")


@pytest.mark.parametrize(
    ("text", "mapped"),
    [("Alice", "alice"), ("a#b", "a=23b"), ("á", "=c3=a1"), ("a=b", "a=3db"), ("a_b/c+.-9", "a_b/c+.-9")],
)
def test_mapping_examples(text: str, mapped: str) -> None:
    assert map_to_localpart(text) == mapped


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_mapping_gives_localparts(text: str) -> None:
    for case_sensitive in (False, True):
        check_new_user_id(f"@{map_to_localpart(text, case_sensitive=case_sensitive)}:d")


@given(st.sets(st.text("aAbB_=é#", min_size=1, max_size=6), min_size=2, max_size=2))
def test_case_sensitive_mapping_keeps_names_apart(texts: set[str]) -> None:
    first, second = (map_to_localpart(text, case_sensitive=True) for text in texts)
    assert first != second


def test_mapping_refuses_surrogates() -> None:
    with pytest.raises(IdentifierError):
        map_to_localpart("\ud800")


def test_content_uris() -> None:
    assert parse_mxc_uri("mxc://example.org:80/aB_-9") == MxcUri("example.org:80", "aB_-9")
    for bad in (
        "",
        "mxc://",
        "mxc://a",
        "mxc://a/",
        "mxc:///b",
        "http://a/b",
        "mxc://a/b/c",
        "mxc://a/../b",
        "mxc://a/é",
    ):
        assert not is_valid_mxc_uri(bad)


def test_key_ids() -> None:
    assert parse_key_id("ed25519:a_1") == KeyId("ed25519", "a_1")
    for bad in ("", "ed25519", "ed25519:", ":a", "ed25519:a b", "ed25519:a:b", "ed25519:é"):
        with pytest.raises(IdentifierError):
            parse_key_id(bad)


@pytest.mark.parametrize(
    ("text", "opaque", "namespaced"),
    [
        ("m.room.message", True, True),
        ("com.example-x_1", True, True),
        ("Abc~9", True, False),
        ("9a", True, False),
        ("", False, False),
        ("a b", False, False),
        ("a\n", False, False),
        ("é", False, False),
        ("a" * 255, True, True),
        ("a" * 256, False, False),
    ],
)
def test_opaque_and_namespaced_identifiers(text: str, opaque: bool, namespaced: bool) -> None:
    assert is_valid_opaque_identifier(text) is opaque
    assert is_valid_namespaced_identifier(text) is namespaced


@given(st.text())
def test_no_text_makes_a_check_fail_otherwise(text: str) -> None:
    for name in dir(identifiers):
        if name.startswith("is_valid_"):
            for sigil in ("", "@", "!", "#", "$", "mxc://"):
                assert getattr(identifiers, name)(sigil + text) in (True, False)
