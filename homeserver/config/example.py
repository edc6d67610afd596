# SPDX-License-Identifier: Apache-2.0
"""Prints the configuration's declarations as a file an administrator can start from.

Owns the form of config.example.yaml and of `lares generate-config`: each key with its documentation above it
and its default as value, so that the file, read back, is exactly the defaults. The sections own the words.
"""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import Field, fields, is_dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Final, get_type_hints

import yaml

from homeserver.config.option import doc_of, example_of
from homeserver.config.sections import Config
from homeserver.config.units import Bytes, Seconds, format_duration, format_size

_WIDTH: Final = 100
_PLAIN: Final = re.compile(r"[A-Za-z0-9.-]+")
_HEADER: Final = """\
# Configuration of Lares. Every key is optional and shows its default; an unknown key is refused by name.
# Relative paths start from this file's folder. To check a file: lares check-config --config FILE
"""


def example(*, server_name: str | None = None) -> str:
    """The example file as YAML text; `server_name`, checked by the caller, takes the place of the default."""
    given = {} if server_name is None else {"server_name": server_name}
    return _HEADER + "\n" + "\n".join(_section(Config(), given, depth=0)) + "\n"


def _section(values: Any, given: Mapping[str, object], *, depth: int) -> Iterator[str]:
    hints = get_type_hints(type(values))
    for index, declared in enumerate(fields(values)):
        if index and depth == 0:
            yield ""
        yield from _key(
            declared, hints[declared.name], given.get(declared.name, getattr(values, declared.name)), depth
        )


def _key(declared: Field[Any], hint: Any, value: object, depth: int) -> Iterator[str]:
    indent = "  " * depth
    yield from textwrap.wrap(
        doc_of(declared), _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
    )
    shown = example_of(declared)
    if shown is not None:
        yield from _example(declared.name, shown, indent)
    if is_dataclass(value):
        yield f"{indent}{declared.name}:"
        yield from _section(value, {}, depth=depth + 1)
    elif isinstance(value, tuple) and value and not isinstance(value[0], str):
        yield f"{indent}{declared.name}:"
        yield from (f"{indent}  - {_inline(each)}" for each in value)
    else:
        yield f"{indent}{declared.name}: {_inline(value, hint)}"


def _example(name: str, shown: str, indent: str) -> Iterator[str]:
    if "\n" not in shown and not shown.startswith("- "):
        yield f"{indent}# Example: {name}: {shown}"
        return
    yield f"{indent}# Example:"
    yield f"{indent}#   {name}:"
    yield from (f"{indent}#     {line}" for line in shown.splitlines())


def _inline(value: object, hint: Any = None) -> str:
    """A value as YAML on one line."""
    if hint is Seconds and isinstance(value, int | float):
        return format_duration(Seconds(value))
    if hint is Bytes and isinstance(value, int):
        return format_size(Bytes(value))
    if isinstance(value, Path):
        return str(value) if value.is_absolute() else f"./{value}"
    if isinstance(value, IPv4Network | IPv6Network):
        return json.dumps(str(value)) if value.version == 6 else str(value)
    if is_dataclass(value):
        inner = ((declared.name, getattr(value, declared.name)) for declared in fields(value))
        return "{" + ", ".join(f"{name}: {_inline(each)}" for name, each in inner) + "}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_inline(each)}" for name, each in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_inline(each) for each in value) + "]"
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and yaml.safe_load(value) == value else json.dumps(value)
    return json.dumps(value)  # null, booleans and numbers are the same in YAML
