# SPDX-License-Identifier: Apache-2.0
"""From plain YAML values to typed sections, with a sentence for everything that does not fit.

Owns the interpretation of the sections' type hints. Knows no key by name; collects problems instead of
stopping at the first, so that one run shows an administrator the whole list.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from immutables import Map

from homeserver.config.option import check_of, takes_rest
from homeserver.config.units import Bytes, Seconds, parse_duration, parse_size

Section = TypeVar("Section")


class _Wrong:
    """Stands for a value that could not be read; its problem is already noted."""


_WRONG: Final = _Wrong()
_NETWORK_KINDS: Final = {IPv4Network, IPv6Network}


class Reader:
    """Reads one file's values. Relative paths start from `folder`; `problems` fills as it reads."""

    def __init__(self, folder: Path) -> None:
        self.problems: list[str] = []
        self._folder = folder

    def read(self, kind: type[Section], value: object) -> Section | None:
        """The section that a YAML document describes, or None if `problems` says why not."""
        made = self._section(kind, {} if value is None else value, "")
        return None if self.problems or isinstance(made, _Wrong) else made

    def _section(self, kind: type[Section], value: object, path: str) -> Section | _Wrong:
        if not isinstance(value, Mapping):
            return self._expected(path, "a mapping of keys to values", value)
        hints = get_type_hints(kind)
        declared = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
        rest = next((each.name for each in declared.values() if takes_rest(each)), None)
        named = {name: each for name, each in declared.items() if name != rest}
        unnamed = {key: item for key, item in value.items() if key not in named}

        arguments = {name: self._field(each, hints[name], value, path) for name, each in named.items()}
        if rest is not None:
            arguments[rest] = self._value(hints[rest], unnamed, path)
        else:
            for key in unnamed:
                self._unknown(str(key), path, named)
        if any(isinstance(argument, _Wrong) for argument in arguments.values()):
            return _WRONG
        return kind(**arguments)

    def _field(self, declared: Field[Any], hint: Any, value: Mapping[Any, Any], path: str) -> Any:
        where = f"{path}.{declared.name}" if path else declared.name
        if declared.name not in value:
            return self._default(declared, where)
        given = value[declared.name]
        if given is None and is_dataclass(hint):
            given = {}  # a heading with nothing, or only comments, beneath it
        read = self._value(hint, given, where)
        check = check_of(declared)
        if check is not None and read is not None and not isinstance(read, _Wrong):
            problem = check(read)
            if problem is not None:
                seen = f"; it is {_shown(given)}" if declared.repr else ""  # a secret stays out of logs
                self.problems.append(f"{where}: {problem}{seen}")
                return _WRONG
        return read

    def _default(self, declared: Field[Any], where: str) -> Any:
        if isinstance(declared.default, Path):
            return self._folder / declared.default
        if declared.default is not MISSING:
            return declared.default
        if declared.default_factory is not MISSING:
            return declared.default_factory()
        self.problems.append(f"{where}: must be given")
        return _WRONG

    def _value(self, hint: Any, value: object, where: str) -> Any:
        """`value` as `hint` asks for it."""
        origin, parameters = get_origin(hint), get_args(hint)
        if origin in {Union, UnionType} and set(parameters) != _NETWORK_KINDS:
            (inner,) = (each for each in parameters if each is not NoneType)
            return None if value is None else self._value(inner, value, where)
        if origin is Literal:
            if value is False and "off" in parameters:
                return "off"  # which YAML takes for a boolean unless it is quoted
            return value if value in parameters else self._expected(where, _choice(parameters), value)
        if origin is tuple:
            return self._list(parameters[0], value, where)
        if origin is Mapping or hint is Mapping:
            return self._mapping(parameters[1], value, where)
        if is_dataclass(hint) and isinstance(hint, type):
            return self._section(hint, value, where)
        return self._scalar(hint, value, where)

    def _list(self, inner: Any, value: object, where: str) -> Any:
        if not isinstance(value, list):
            return self._expected(where, "a list", value)
        items = [self._value(inner, item, f"{where}[{index}]") for index, item in enumerate(value)]
        return _WRONG if any(isinstance(item, _Wrong) for item in items) else tuple(items)

    def _mapping(self, inner: Any, value: object, where: str) -> Any:
        if not isinstance(value, Mapping):
            return self._expected(where, "a mapping of keys to values", value)
        read = {}
        for key, item in value.items():
            if not isinstance(key, str):
                self.problems.append(f"{where}: the key {_shown(key)} must be text; put it in quotes")
                return _WRONG
            read[key] = self._value(inner, item, f"{where}.{key}")
        return _WRONG if any(isinstance(item, _Wrong) for item in read.values()) else Map(read)

    def _scalar(self, hint: Any, value: object, where: str) -> Any:
        if hint is object:
            return value
        wanted, convert = _SCALARS[hint]
        try:
            converted = convert(value)
        except ValueError:
            return self._expected(where, wanted, value)
        return self._folder / converted.expanduser() if isinstance(converted, Path) else converted

    def _expected(self, where: str, wanted: str, value: object) -> _Wrong:
        hint = "; put it in quotes" if "text" in wanted and isinstance(value, bool | int | float) else ""
        place = where or "the file"
        self.problems.append(f"{place}: expected {wanted}, found {_shown(value)}{hint}")
        return _WRONG

    def _unknown(self, key: str, path: str, known: Mapping[str, object]) -> None:
        import difflib  # for mistakes only

        near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
        advice = f"did you mean {near[0]}?" if near else f"the keys here are {', '.join(known)}"
        self.problems.append(f"{f'{path}.{key}' if path else key}: there is no such key; {advice}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(value)
    return value


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(value)
    return value


def _duration(value: object) -> Seconds:
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return Seconds(float(value))
    return parse_duration(_text(value))


def _size(value: object) -> Bytes:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Bytes(value)
    return parse_size(_text(value))


def _path(value: object) -> Path:
    text = _text(value)
    if not text:
        raise ValueError(value)
    return Path(text)


def _network(value: object) -> IPv4Network | IPv6Network:
    return ip_network(_text(value))


_SCALARS: Final[Mapping[Any, tuple[str, Any]]] = {
    str: ("text", _text),
    bool: ("true or false", _boolean),
    int: ("a whole number", _integer),
    Seconds: ('a duration such as 90s, 5m or "1h 30m"', _duration),
    Bytes: ("a size such as 512KiB or 256MiB", _size),
    Path: ("a path", _path),
    IPv4Network | IPv6Network: ("an address range such as 10.0.0.0/8 or fc00::/7", _network),
}


def _choice(parameters: tuple[object, ...]) -> str:
    return "one of " + ", ".join(str(each) for each in parameters)


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…" + text[0]
