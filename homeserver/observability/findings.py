# SPDX-License-Identifier: Apache-2.0
"""What an examination found, for people and for programs.

Owns the shape of a report and how it is printed. Does not own what counts as a problem.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from enum import Enum
from typing import Any, Final

from msgspec import Struct

_WIDTH: Final = 110
_MARGIN: Final = 11


class Severity(Enum):
    """What a finding means to an administrator."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


class Finding(Struct, frozen=True):
    """One sentence, and for a problem what to change."""

    severity: Severity
    text: str
    advice: str = ""


def ok(text: str) -> Finding:
    """As it should be."""
    return Finding(Severity.OK, text)


def note(text: str, advice: str = "") -> Finding:
    """Worth knowing."""
    return Finding(Severity.NOTE, text, advice)


def problem(text: str, advice: str) -> Finding:
    """Keeps servers apart."""
    return Finding(Severity.PROBLEM, text, advice)


class Part(Struct, frozen=True):
    """What was found about one thing, such as an address."""

    title: str
    findings: tuple[Finding, ...]


class Report(Struct, frozen=True):
    """All of it."""

    server_name: str
    parts: tuple[Part, ...]

    @property
    def problems(self) -> int:
        """How many there are."""
        findings = (finding for part in self.parts for finding in part.findings)
        return sum(finding.severity is Severity.PROBLEM for finding in findings)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`: `server_name`, `problems`, and per part its title and findings."""
        return {
            "server_name": self.server_name,
            "problems": self.problems,
            "parts": [
                {
                    "title": part.title,
                    "findings": [
                        {"severity": each.severity.value, "text": each.text, "advice": each.advice}
                        for each in part.findings
                    ],
                }
                for part in self.parts
            ],
        }

    def as_text(self) -> str:
        """For people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for part in self.parts:
            yield part.title
            for finding in part.findings:
                yield _wrapped(f"  {finding.severity.value:<9}", finding.text)
                if finding.advice:
                    yield _wrapped(" " * _MARGIN, finding.advice)
            yield ""
        count = self.problems
        if count == 0:
            yield f"No problem found with {self.server_name}."
        else:
            yield f"{count} problem{'s' if count > 1 else ''} found with {self.server_name}."


def _wrapped(margin: str, text: str) -> str:
    # Names and reasons come from other machines; a terminal shall not obey them.
    visible = "".join(character if character.isprintable() else "�" for character in text)
    return textwrap.fill(visible, _WIDTH, initial_indent=margin, subsequent_indent=" " * _MARGIN)
