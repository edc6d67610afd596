# SPDX-License-Identifier: Apache-2.0
"""Server ACLs: the order of the rules, malformed contents, and globs against a backtracking model."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.protocol.server_acl import GlobSet, ServerAcl


def allows(server: str, **content: Any) -> bool:
    return ServerAcl.from_content(content).allows(server)


@pytest.mark.parametrize(
    ("server", "content", "expected"),
    [
        ("a.example", {"allow": ["*"]}, True),
        ("a.example", {"allow": ["*"], "deny": ["a.example"]}, False),
        ("a.example", {"allow": ["a.example"], "deny": ["*"]}, False),
        ("a.example", {"allow": ["b.example"]}, False),
        ("a.example", {"allow": []}, False),
        ("a.example", {}, False),
        ("a.example", {"deny": ["b.example"]}, False),
        ("sub.evil.example", {"allow": ["*"], "deny": ["*.evil.example"]}, False),
        ("evil.example", {"allow": ["*"], "deny": ["*.evil.example"]}, True),
        ("EVIL.example", {"allow": ["*"], "deny": ["evil.EXAMPLE"]}, False),
        ("evil.example:8448", {"allow": ["*"], "deny": ["evil.example"]}, False),
        ("evil.example", {"allow": ["*"], "deny": ["evil.example:8448"]}, True),
        ("a1.example", {"allow": ["a?.example"]}, True),
        ("a.example", {"allow": ["a?.example"]}, False),
        ("a.example", {"allow": ["a[.]example", "a\\.example", "a+xample"]}, False),
    ],
)
def test_rules(server: str, content: dict[str, Any], expected: bool) -> None:
    assert allows(server, **content) is expected


@pytest.mark.parametrize("server", ["1.2.3.4", "1.2.3.4:80", "[::1]", "[2001:db8::1]:8448"])
def test_ip_literals(server: str) -> None:
    assert allows(server, allow=["*"])
    assert allows(server, allow=["*"], allow_ip_literals=True)
    assert not allows(server, allow=["*"], allow_ip_literals=False)
    assert not allows(server, allow=[server], allow_ip_literals=False)


@pytest.mark.parametrize("server", ["1.2.3.example", "1.2.3.4.5", "a1.2.3.4", "a.example:1"])
def test_names_that_are_no_ip_literals(server: str) -> None:
    assert allows(server, allow=["*"], allow_ip_literals=False)


def test_ipv6_is_matched_with_its_brackets_and_without_its_port() -> None:
    assert allows("[::1]:8448", allow=["[::1]"])
    assert allows("[::1]", allow=["[::*]"])
    assert not allows("[::1]", allow=["::1"])


@pytest.mark.parametrize("junk", [None, "*", 1, True, {"*": "*"}])
def test_malformed_parts_count_as_absent(junk: object) -> None:
    assert not allows("a.example", allow=junk)
    assert allows("a.example", allow=["*"], deny=junk)
    assert not allows("a.example", allow=[junk, "b"] if junk != "*" else [])
    if not isinstance(junk, bool):
        assert allows("1.2.3.4", allow=["*"], allow_ip_literals=junk)


def model(glob: str, text: str) -> bool:
    """The obvious translation, whose time hostile globs control."""
    pattern = "".join({"*": ".*", "?": "."}.get(each, re.escape(each)) for each in glob)
    return re.fullmatch(pattern, text, re.DOTALL) is not None


@given(st.lists(st.text("ab*?.", max_size=7), max_size=4), st.text("ab.", max_size=8))
def test_globs_are_as_the_model_says(globs: list[str], text: str) -> None:
    assert GlobSet.of(globs).matches(text) is any(model(glob, text) for glob in globs)


def test_advisory_19_globs_that_would_backtrack() -> None:
    """Each of these takes a backtracking matcher longer than the age of the universe."""
    stars = "a*" * 120 + "b"
    queries = "a*?" * 80 + "b"
    globs = GlobSet.of([stars, queries, "*" * 60_000 + "?b", "?" * 60_000, "x" * 60_000])
    assert not globs.matches("a" * 255)
    assert globs.matches("a" * 254 + "b")
