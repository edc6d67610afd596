# SPDX-License-Identifier: Apache-2.0
"""config.example.yaml is what the declarations say, and reads back as the defaults."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from homeserver.config import Config, parse
from homeserver.config.example import example
from homeserver.config.option import example_of

ROOT = Path(__file__).resolve().parents[2]


def commented_examples(kind: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Path of a key → the example value its declaration shows."""
    hints = get_type_hints(kind)
    for declared in fields(kind):
        here = (*path, declared.name)
        shown = example_of(declared)
        if shown is not None:
            yield here, shown
        if is_dataclass(hints[declared.name]):
            yield from commented_examples(hints[declared.name], here)


def test_the_example_file_is_the_generated_one() -> None:
    """`lares generate-config > config.example.yaml` brings it up to date."""
    assert (ROOT / "config.example.yaml").read_text() == example()


def test_the_example_reads_back_as_the_defaults(tmp_path: Path) -> None:
    """Every key is there, and shows the value it has without being there."""
    config = parse(example(), source="example", folder=tmp_path)
    assert config == parse("", source="nothing", folder=tmp_path)


def test_a_given_server_name_is_filled_in(tmp_path: Path) -> None:
    """Also one that YAML would take for something else."""
    for name in ("example.org", "1.2.3.4", "[::1]:8448", "no"):
        assert parse(example(server_name=name), source="example", folder=tmp_path).server_name == name


@pytest.mark.parametrize(("path", "text"), sorted(commented_examples(Config)))
def test_each_commented_example_is_valid(path: tuple[str, ...], text: str, tmp_path: Path) -> None:
    """Whoever uncomments an example gets a configuration that differs from the defaults."""
    for name in ("a.crt", "a.key", "bridge.yaml"):
        (tmp_path / name).touch()
    document = yaml.safe_load(text)
    for key in reversed(path):
        document = {key: document}
    config = parse(yaml.safe_dump(document), source="example", folder=tmp_path)
    assert config != parse("", source="nothing", folder=tmp_path)
