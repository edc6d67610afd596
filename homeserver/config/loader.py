# SPDX-License-Identifier: Apache-2.0
"""Reads the configuration file.

Owns the way from a path, or from no path, to a checked `Config`: YAML, types, values, cross-checks, in this
order. Errors are `ConfigError`, one sentence per wrong key.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from homeserver.config.checks import contradictions, missing_files
from homeserver.config.errors import ConfigError
from homeserver.config.reading import Reader
from homeserver.config.sections import Config


@dataclass(frozen=True, slots=True)
class Written:
    """A configuration before it is understood."""

    text: str
    source: str
    """Names it in errors."""
    folder: Path
    """What its relative paths begin from."""

    def parse(self) -> Config:
        """Understand it. Raises ConfigError."""
        return parse(self.text, source=self.source, folder=self.folder)


def load(path: Path | None) -> Config:
    """The configuration of a file; of no file, the defaults, with `data_dir` in the current folder.

    Relative paths in a file are relative to the file's folder. Raises ConfigError.
    """
    return read_text(path).parse()


def read_text(path: Path | None) -> Written:
    """What `load` understands, as it stands. Raises ConfigError."""
    if path is None:
        return Written("", "defaults", Path.cwd())
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [f"is not UTF-8 text: {error}"]) from error
    return Written(text, str(path), path.absolute().parent)


def parse(text: str, *, source: str, folder: Path) -> Config:
    """The configuration that YAML text describes. `source` names it in errors. Raises ConfigError."""
    try:
        document = yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(source, [f"is not valid YAML: {_on_one_line(error)}"]) from error
    reader = Reader(folder)
    config = reader.read(Config, document)
    if config is None:
        raise ConfigError(source, reader.problems)
    problems = [*contradictions(config), *missing_files(config)]
    if problems:
        raise ConfigError(source, problems)
    return config


class _Loader(yaml.SafeLoader):
    """Safe YAML without the two surprises: a key given twice is refused, and a date is text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys differ."""
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key!r} is given twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _on_one_line(error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
