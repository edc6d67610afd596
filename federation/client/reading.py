# SPDX-License-Identifier: Apache-2.0
"""Taking fields out of another server's answer, of the type they must have. Owns BadAnswer's words."""

from collections.abc import Sequence
from typing import Any, Final, TypeVar

from federation.client.errors import BadAnswer

D = TypeVar("D")
_REQUIRED: Final[Any] = object()


class Reading:
    """An answer that must be an object. Every method raises BadAnswer for a wrong type, and for a field that is not
    there unless it has a default; null is as good as absent then."""

    def __init__(self, destination: str, answer: Any) -> None:
        self._destination = destination
        if type(answer) is not dict:
            raise self.bad("it must be an object")
        self._answer: dict[str, Any] = answer

    def whole(self) -> dict[str, Any]:
        """All of it."""
        return self._answer

    def object(self, name: str, default: D = _REQUIRED) -> dict[str, Any] | D:
        """An object."""
        value: dict[str, Any] | D = self._field(name, dict, "an object", default)
        return value

    def text(self, name: str, default: str = _REQUIRED) -> str:
        """A string."""
        value: str = self._field(name, str, "a string", default)
        return value

    def integer(self, name: str) -> int:
        """An integer."""
        value: int = self._field(name, int, "an integer", _REQUIRED)
        return value

    def boolean(self, name: str, default: bool) -> bool:
        """True or false."""
        value: bool = self._field(name, bool, "true or false", default)
        return value

    def objects(self, name: str) -> Sequence[dict[str, Any]]:
        """A list of objects."""
        values: Sequence[dict[str, Any]] = self._list(name, dict, "objects")
        return values

    def texts(self, name: str) -> Sequence[str]:
        """A list of strings."""
        values: Sequence[str] = self._list(name, str, "strings")
        return values

    def bad(self, reason: str) -> BadAnswer:
        """The error of an answer that is not what it must be."""
        return BadAnswer(self._destination, f"unusable answer: {reason}")

    def _field(self, name: str, kind: type, what: str, default: Any) -> Any:
        value = self._answer.get(name)
        if value is None and default is not _REQUIRED:
            return default
        if type(value) is not kind:
            raise self.bad(f"`{name}` must be {what}")
        return value

    def _list(self, name: str, kind: type, what: str) -> Any:
        value = self._answer.get(name)
        if type(value) is not list or any(type(each) is not kind for each in value):
            raise self.bad(f"`{name}` must be a list of {what}")
        return value
