# SPDX-License-Identifier: Apache-2.0
"""The text of a configuration file as plain values. Owns the dialect of YAML; knows nothing of what keys mean."""

from collections.abc import Hashable
from typing import Any

import yaml

from homeserver.config.errors import ConfigError


def read_yaml(text: str, source: str) -> Any:
    """The document. `source` names it in errors. Raises ConfigError."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(source, [f"is not valid YAML: {_on_one_line(error)}"]) from error


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
