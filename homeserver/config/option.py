# SPDX-License-Identifier: Apache-2.0
"""How a configuration key is declared: its default, its documentation, what its value may be.

Owns the vocabulary the sections are written in; `reading` and `example` interpret it. A section is a frozen
dataclass whose fields are made by the functions here, so that one declaration gives the type, the check, the
default and the text of the example file.
"""

from collections.abc import Callable
from dataclasses import MISSING, Field, field
from typing import Any, Final

_DOC: Final = "doc"
_EXAMPLE: Final = "example"
_CHECK: Final = "check"
_REST: Final = "rest"

Check = Callable[[Any], str | None]
"""Looks at a value of the right type; returns what is wrong with it ("must be …"), or None."""


def option(
    *,
    doc: str,
    default: Any = MISSING,
    example: str | None = None,
    check: Check | None = None,
    secret: bool = False,
) -> Any:
    """Declare one key.

    `doc` is what an administrator reads above it. `example` is YAML for the value, shown commented out where
    the default alone would not tell the shape. A `secret` value stays out of `repr`, so that it cannot reach
    a log. Without `default` the key must be given.
    """
    metadata = {_DOC: doc, _EXAMPLE: example, _CHECK: check, _REST: False}
    if default is MISSING:
        return field(metadata=metadata, repr=not secret)
    return field(default=default, metadata=metadata, repr=not secret)


def section(kind: Callable[[], Any], *, doc: str) -> Any:
    """Declare a nested section whose keys all have defaults."""
    return field(default_factory=kind, metadata={_DOC: doc, _EXAMPLE: None, _CHECK: None, _REST: False})


def rest(*, doc: str) -> Any:
    """Declare the mapping that takes every key of its section that no other field names."""
    return field(metadata={_DOC: doc, _EXAMPLE: None, _CHECK: None, _REST: True})


def doc_of(declared: Field[Any]) -> str:
    """The documentation given to `option` or `section`."""
    return str(declared.metadata[_DOC])


def example_of(declared: Field[Any]) -> str | None:
    """The example value given to `option`, as YAML text."""
    example: str | None = declared.metadata[_EXAMPLE]
    return example


def check_of(declared: Field[Any]) -> Check | None:
    """The check given to `option`."""
    check: Check | None = declared.metadata[_CHECK]
    return check


def takes_rest(declared: Field[Any]) -> bool:
    """Whether the field was declared by `rest`."""
    return bool(declared.metadata[_REST])
