# SPDX-License-Identifier: Apache-2.0
"""Parts of a document that a command writes: what stands between two marks is replaced, the rest is kept."""

from __future__ import annotations

from pathlib import Path

from scripts.benchmarks.marks import replaced as between_marks


def marks(title: str) -> tuple[str, str]:
    """The lines around a part."""
    return (
        f"<!-- {title}: begin (written by scripts/benchmark {title} --markdown) -->",
        f"<!-- {title}: end -->",
    )


def replaced(document: str, title: str, text: str) -> str:
    """The document with another text between the marks of a part. Raises as `between_marks`."""
    return between_marks(document, *marks(title), text)


def update(path: Path, title: str, text: str) -> None:
    """Replace the part in the file."""
    path.write_text(replaced(path.read_text(), title, text))
