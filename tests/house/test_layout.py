# SPDX-License-Identifier: Apache-2.0
"""The tree keeps its own rules: what stands at the top, how files are named, headed and sized, what they leave open.

Owns rules about files. Which way imports run is held by import-linter (pyproject.toml), except for one it cannot
express: who may know of HTTP.
"""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE_FOLDERS = ("homeserver", "federation", "storage", "scripts", "tests")
SOURCE_SUFFIXES = {".py", ".pyi", ".sql", ".bash", ".js", ".mjs", ""}
TOP_LEVEL = {
    ".ci",
    ".git",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "config.example.yaml",
    "docs",
    "federation",
    "homeserver",
    "pyproject.toml",
    "scripts",
    "setup.py",
    "storage",
    "tests",
}
MOST_LINES = 600
NAMELESS = {"util", "utils", "helper", "helpers", "misc", "common", "shared", "stuff"}
# Each with a class of one letter, so that this file keeps its own rule.
LEFT_OPEN = re.compile(
    r"\b(T[O]DO|F[I]XME|X[X]X)\b|N[o]tImplementedError|pytest\.(mark\.)?([s]kip|[x]fail|[i]mportorskip)"
)
HTTP_LIBRARIES = ("twisted.web", "treq", "autobahn")
KNOW_HTTP = (
    "homeserver/web/",
    "homeserver/clientapi/",
    "homeserver/outgoing/",
    "federation/",
    "scripts/",
    "tests/",
)
# What opens connections to others. Whoever else asks the network for something asks homeserver/outgoing, where each
# address is judged and each answer has a cap. `register-user` talks to the administrator's own server.
CLIENT_NAMES = {
    "treq",
    "urllib.request",
    "http.client",
    "requests",
    "twisted.web.client",
    "twisted.internet.endpoints.HostnameEndpoint",
    "twisted.internet.endpoints.TCP4ClientEndpoint",
    "twisted.internet.endpoints.TCP6ClientEndpoint",
    "twisted.internet.endpoints.SSL4ClientEndpoint",
    "twisted.internet.endpoints.clientFromString",
}
CLIENT_CALLS = {"connectTCP", "connectSSL", "create_connection"}
OPEN_CONNECTIONS = ("homeserver/outgoing/", "homeserver/cli/register_user.py", "scripts/", "tests/")


def ignored(name: str) -> bool:
    """Whether .gitignore names a file or folder: what a run leaves behind is not part of the tree."""
    patterns = (ROOT / ".gitignore").read_text().split()
    return any(fnmatch(name, pattern.rstrip("/")) for pattern in patterns)


def sources() -> Iterator[Path]:
    """Every source file, relative to the checkout."""
    folders = [ROOT / name for name in SOURCE_FOLDERS]
    while folders:
        for path in sorted(folders.pop().iterdir()):
            if ignored(path.name):
                continue
            if path.is_dir():
                folders.append(path)
            elif path.suffix in SOURCE_SUFFIXES and not path.name.startswith((".", "py.typed")):
                yield path.relative_to(ROOT)
    yield Path("setup.py")


def head_problem(path: Path, text: str) -> str | None:
    """One licence line on top (below a `#!`), and nothing of it in the empty packages of the tests."""
    if not text.strip() and path.parts[0] == "tests":
        return None
    first = [line for line in text.splitlines()[:2] if not line.startswith("#!")]
    licensed = bool(first) and re.fullmatch(r"(#|--|//) SPDX-License-Identifier: Apache-2\.0", first[0])
    return None if licensed else "does not begin with the SPDX line"


def docstring_problem(path: Path, text: str) -> str | None:
    """A Python module says what it owns; the empty packages of the tests own nothing."""
    if path.suffix != ".py":
        return None
    module = ast.parse(text)
    if ast.get_docstring(module) or (path.parts[0] == "tests" and not module.body):
        return None
    return "has no module docstring"


def length_problem(_path: Path, text: str) -> str | None:
    """A longer file holds two things."""
    lines = text.count("\n")
    return None if lines <= MOST_LINES else f"has {lines} lines, more than {MOST_LINES}"


def name_problem(path: Path, _text: str) -> str | None:
    """A drawer for everything holds nothing in particular."""
    words = {word for part in path.parts for word in re.split(r"[_.-]", part.lower())}
    return f"has a name that says nothing: {words & NAMELESS}" if words & NAMELESS else None


def open_problem(_path: Path, text: str) -> str | None:
    """Nothing is left for later, and no test is left out."""
    found = [f"line {number}" for number, line in enumerate(text.splitlines(), 1) if LEFT_OPEN.search(line)]
    return f"leaves something open: {', '.join(found)}" if found else None


def http_problem(path: Path, text: str) -> str | None:
    """Services and stores decide and keep; HTTP is known to what answers and asks."""
    if path.suffix != ".py" or str(path).startswith(KNOW_HTTP):
        return None
    known = sorted(
        name
        for name in imported(ast.parse(text))
        if (name + ".").startswith(tuple(f"{each}." for each in HTTP_LIBRARIES))
    )
    return f"imports {', '.join(known)}" if known else None


def connecting_problem(path: Path, text: str) -> str | None:
    """One place opens connections to others."""
    if path.suffix != ".py" or str(path).startswith(OPEN_CONNECTIONS):
        return None
    module = ast.parse(text)
    names = {name for name in imported(module) if client_name(name)}
    names |= {
        node.func.attr
        for node in ast.walk(module)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in CLIENT_CALLS
    }
    return f"opens connections itself: {', '.join(sorted(names))}" if names else None


def needs_problem(path: Path, text: str) -> str | None:
    """What a module needs of others is declared so that nothing of it is kept in memory."""
    if path.suffix != ".py" or path.parts[0] in {"scripts", "tests"} or path.name == "needs.py":
        return None
    declared = "typing.Protocol" in set(imported(ast.parse(text)))
    return "declares by typing's Protocol, not by that of homeserver.needs" if declared else None


def client_name(name: str) -> bool:
    """Whether a dotted name is one of the clients, or of something in it."""
    return any((name + ".").startswith(f"{each}.") for each in CLIENT_NAMES)


def imported(module: ast.Module) -> Iterator[str]:
    """The dotted names a module imports, anywhere in it."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


RULES = [
    head_problem,
    docstring_problem,
    length_problem,
    name_problem,
    open_problem,
    http_problem,
    connecting_problem,
    needs_problem,
]
Rule = Callable[[Path, str], str | None]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_source_file_keeps_the_rule(rule: Rule) -> None:
    """Each file of the tree passes each rule."""
    problems = [(str(path), rule(path, (ROOT / path).read_text())) for path in sources()]
    assert [f"{path} {problem}" for path, problem in problems if problem] == []


def test_only_known_names_stand_at_the_top() -> None:
    """A newcomer sees a dozen names, each of them meant."""
    names = {path.name for path in ROOT.iterdir() if not ignored(path.name)}
    assert names - TOP_LEVEL == set()


def unmarked(paths: Iterable[Path]) -> set[str]:
    """Folders that hold Python files, themselves or below, and no `__init__.py`."""
    given = set(paths)
    folders = {folder for path in given if path.suffix == ".py" for folder in path.parents if folder.name}
    return {str(folder) for folder in folders if folder / "__init__.py" not in given}


def test_every_folder_of_modules_is_a_package() -> None:
    """Without `__init__.py` a folder is neither installed nor seen by the import contract."""
    assert unmarked(sources()) == set()
    assert unmarked([Path("a/__init__.py"), Path("a/b/c.py")]) == {"a/b"}


SPDX = "# SPDX-License-Identifier: Apache-2.0\n"


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (head_problem, "homeserver/rooms.py", '"""Rooms."""\n'),
        (head_problem, "homeserver/rooms/__init__.py", ""),
        (head_problem, "scripts/serve", "#!/usr/bin/env bash\nexec lares\n"),
        (docstring_problem, "storage/rooms.py", SPDX + "import os\n"),
        (docstring_problem, "tests/test_rooms.py", SPDX + "import os\n"),
        (docstring_problem, "storage/__init__.py", SPDX),
        (length_problem, "storage/rooms.py", "\n" * 601),
        (name_problem, "homeserver/rooms/utils.py", ""),
        (name_problem, "homeserver/common/rooms.py", ""),
        (name_problem, "tests/room_helpers.py", ""),
        (open_problem, "storage/rooms.py", "x = 1  # todo: two".upper()),
        (open_problem, "tests/test_rooms.py", "@PYTEST.MARK.SKIP".lower()),
        (http_problem, "homeserver/rooms/joining.py", "from twisted.web import http"),
        (http_problem, "storage/rooms.py", "import treq"),
        (
            http_problem,
            "homeserver/sync/socket.py",
            "from autobahn.twisted.websocket import WebSocketServerProtocol",
        ),
        (connecting_problem, "federation/client/client.py", "from twisted.web.client import Agent"),
        (connecting_problem, "homeserver/push/gateway.py", "import treq"),
        (connecting_problem, "federation/keys/ring.py", "reactor.connectTCP(host, 8448, factory)"),
        (needs_problem, "storage/rooms.py", "from typing import Any, Protocol"),
    ],
)
def test_a_rule_sees_what_breaks_it(rule: Rule, path: str, text: str) -> None:
    """No rule passes everything."""
    assert rule(Path(path), text) is not None


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (head_problem, "scripts/serve", "#!/usr/bin/env bash\n" + SPDX),
        (head_problem, "storage/migrations/1.sql", "-- SPDX-License-Identifier: Apache-2.0\n"),
        (docstring_problem, "tests/config/__init__.py", ""),
        (http_problem, "homeserver/web/site.py", "from twisted.web import http"),
        (http_problem, "homeserver/rooms/joining.py", "from twisted.internet.defer import Deferred"),
        (connecting_problem, "homeserver/outgoing/connecting.py", "reactor.connectTCP(host, 8448, factory)"),
        (connecting_problem, "federation/serving/keys.py", "from twisted.web import http"),
        (needs_problem, "storage/rooms.py", "from homeserver.needs import Protocol"),
        (
            needs_problem,
            "homeserver/outgoing/connection.py",
            "from twisted.internet.protocol import Protocol",
        ),
    ],
)
def test_a_rule_lets_pass_what_keeps_it(rule: Rule, path: str, text: str) -> None:
    """No rule refuses everything."""
    assert rule(Path(path), text) is None
