# SPDX-License-Identifier: Apache-2.0
"""scripts/constraints.txt pins whatever setup.py asks for.

Owns the comparison of the two, so that a new requirement cannot reach a fresh checkout in whichever version is the
newest that day.
"""

import ast
import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def requirements() -> list[Requirement]:
    """What setup.py asks for, read without running it."""
    call = ast.parse((ROOT / "setup.py").read_text()).body[-1]
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    given = {keyword.arg: keyword.value for keyword in call.value.keywords}
    extras = ast.literal_eval(given["extras_require"])
    texts = ast.literal_eval(given["install_requires"])
    for further in extras.values():
        texts += further
    return [Requirement(text) for text in texts]


def pins() -> dict[str, str]:
    """Canonical name → version."""
    lines = (ROOT / "scripts/constraints.txt").read_text().splitlines()
    named = [re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line) for line in lines if not line.startswith("#")]
    assert all(named), "a line that is not name==version"
    return {canonicalize_name(match[1]): match[2] for match in named if match}


def test_each_requirement_is_pinned_to_a_version_it_allows() -> None:
    """Lower bound and pin agree, for the server and for the tools."""
    pinned = pins()
    wrong = [
        str(requirement)
        for requirement in requirements()
        if not requirement.specifier.contains(pinned.get(canonicalize_name(requirement.name), "0"))
    ]
    assert wrong == []


def test_the_build_is_pinned() -> None:
    """The scripts install setuptools by its pin and build without fetching another."""
    assert "setuptools" in pins()
