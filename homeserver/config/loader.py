# SPDX-License-Identifier: Apache-2.0
"""Reads the configuration file.

Owns the way from a path, or from no path, to a checked `Config`: YAML, types, values, cross-checks, in this
order. Errors are `ConfigError`, one sentence per wrong key.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    def as_json(self) -> str:
        """What `take_over` takes, for another process. Raises ConfigError."""
        from homeserver.config.yaml_text import read_yaml

        try:
            return json.dumps(read_yaml(self.text, self.source))
        except (TypeError, ValueError) as error:
            raise ConfigError(self.source, [f"has a value that JSON has not: {error}"]) from error


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
    from homeserver.config.yaml_text import read_yaml  # a megabyte, which a worker has no use for

    return understand(read_yaml(text, source), source=source, folder=folder)


def take_over(text: str, *, source: str, folder: Path) -> Config:
    """The configuration that another process of this server hands over: `as_json`, or the file's own text if that
    process is of a release before, which goes on until it is told to replace its workers. Raises ConfigError."""
    try:
        document = json.loads(text)
    except ValueError:
        return parse(text, source=source, folder=folder)
    return understand(document, source=source, folder=folder)


def understand(document: Any, *, source: str, folder: Path) -> Config:
    """The configuration that the values of a file describe. Raises ConfigError."""
    reader = Reader(folder)
    config = reader.read(Config, document)
    if config is None:
        raise ConfigError(source, reader.problems)
    problems = [*contradictions(config), *missing_files(config)]
    if problems:
        raise ConfigError(source, problems)
    return config
