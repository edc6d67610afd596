# SPDX-License-Identifier: Apache-2.0
"""Parts of a document that a command writes: what stands between two marks is replaced, the rest is kept."""

from __future__ import annotations

from pathlib import Path


def marks(title: str) -> tuple[str, str]:
    """The lines around a part."""
    return (
        f"<!-- {title}: begin (written by scripts/benchmark {title} --markdown) -->",
        f"<!-- {title}: end -->",
    )


def replaced(document: str, title: str, text: str) -> str:
    """The document with another text between the marks; ValueError unless they are there, once each, in order."""
    begin, end = marks(title)
    if document.count(begin) != 1 or document.count(end) != 1 or document.index(begin) > document.index(end):
        raise ValueError(f"the document needs the lines {begin!r} and {end!r}, in this order, once each")
    before, rest = document.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def update(path: Path, title: str, text: str) -> None:
    """Replace the part in the file."""
    path.write_text(replaced(path.read_text(), title, text))
