# SPDX-License-Identifier: Apache-2.0
"""Holes that other homeservers had, each with a test here that bears its number.

Owns the list. A test proves that a promise is kept if `advisory_` and the number stand in its name; its docstring says
how. Removing or renaming the last one of a number fails here.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent

ADVISORIES = {
    1: "CVE-2018-16515: an event counts as its sender's only by the signature of the sender's server",
    2: "CVE-2018-12423: without power levels only the creator has power",
    3: "CVE-2019-5885: a secret that nobody set is random, and no server's is another's",
    4: "CVE-2020-26257: room and event in a path are those of the body",
    5: "CVE-2020-26890: numbers without a canonical form are refused at every entry",
    6: "CVE-2021-21274: a .well-known document is bounded in size, time and redirects",
    7: "CVE-2021-21273, CVE-2021-21392: no request reaches denied addresses, by whatever name or redirect",
    8: "CVE-2021-29471: a pattern of a push rule costs as much as the text is long, however it is made",
    9: "CVE-2021-41281: no name of media becomes a path",
    10: "CVE-2021-39164: members of a room are told to nobody who may not see them",
    12: "CVE-2022-31152, CVE-2022-39374: what was rejected stays rejected and is never state",
    13: "CVE-2022-39335: authorization events are not for servers outside the room",
    14: "CVE-2022-39200: events that were asked for are checked like those that were sent",
    15: "CVE-2022-36009: power levels are read as everybody reads them",
    16: "CVE-2023-32323: what is too large for others never holds up what is not",
    17: "CVE-2023-32682, CVE-2023-41335: who is deactivated comes in by no way",
    18: "CVE-2023-42453, CVE-2024-6301: receipts and all other units only by who may, for what they can see",
    19: "CVE-2023-45129: an access control list costs little, whatever stands in it",
    20: "CVE-2024-31208: what one event may cost is bounded, however its past is crafted",
    21: "CVE-2024-37303: nobody without an account has media fetched or given",
    22: "CVE-2024-52805, CVE-2024-53863: no form is taken apart, no decoder sees a picture that is not its own",
    23: "CVE-2024-52815, CVE-2024-53867: no invite breaks a sync",
    24: "CVE-2024-52594: a redirect in an answer between servers leads nowhere",
    25: "CVE-2024-6299, CVE-2024-6300, CVE-2024-6302, CVE-2024-6303: expired keys, aliases, redactions",
    26: "CVE-2025-30355: a depth out of range stops nothing",
    27: "CVE-2025-49090: state does not go back to what it was",
    28: "CVE-2025-61672: device keys have the form of device keys",
    29: "CVE-2025-68667, CVE-2026-24471: nothing is signed for others but what it is said to be",
    30: "CVE-2026-24044: a key that everybody has proves nothing",
    31: "CVE-2026-45076, CVE-2026-45078: rejected events do not end the way back through a room",
    32: "GHSA-v2x6-m99h-vqxx: what is compressed counts as what it becomes",
}


def _tests() -> dict[int, set[str]]:
    """Number → names of the tests that bear it."""
    found: dict[int, set[str]] = {}
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                for numbers in re.findall(r"advisory((?:_\d+(?:_and)?)+)", node.name):
                    for number in re.findall(r"\d+", numbers):
                        found.setdefault(int(number), set()).add(f"{path.relative_to(TESTS)}::{node.name}")
    return found


@pytest.fixture(scope="module")
def tests() -> dict[int, set[str]]:
    return _tests()


@pytest.mark.parametrize("number", ADVISORIES)
def test_each_has_a_test(tests: dict[int, set[str]], number: int) -> None:
    """At least one."""
    assert tests.get(number), f"no test bears advisory_{number:02}: {ADVISORIES[number]}"


def test_no_test_bears_a_number_that_is_not_listed(tests: dict[int, set[str]]) -> None:
    """What is proven is said."""
    unknown = tests.keys() - ADVISORIES.keys()
    assert not unknown, {number: tests[number] for number in unknown}
