# SPDX-License-Identifier: Apache-2.0
"""Environments of the foreign clients: made on first use, kept in the checkout's `.venv-clients/`.

Owns what is installed where: a Python environment with `requirements.txt` (matrix-nio, mautrix, websockets, LiveKit's
own package, and Node as a wheel, so that neither root nor a system's Node of the wrong age matters) and a directory
with `js/`'s packages.
Each is named by the digest of the files that pin it, so a changed pin makes a new one and an interrupted
installation is never mistaken for a whole one.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".venv-clients"
REQUIREMENTS = HERE / "requirements.txt"
JS_PINS = ("package.json", "package-lock.json", ".npmrc")


class NotInstallable(AssertionError):
    """A client could not be installed; the message says what to do about it."""


def python() -> Path:
    """The interpreter that has matrix-nio, mautrix, websockets, LiveKit's package and Node's wheel."""

    def install(target: Path) -> None:
        _run([sys.executable, "-m", "venv", str(target)], "install Debian's python3-venv")
        _run(
            [str(target / "bin" / "python"), "-m", "pip", "install", "--quiet", "-r", str(REQUIREMENTS)],
            "let pip reach a package index (its settings are honoured), or remove the pins it cannot find "
            f"from {REQUIREMENTS}; for Python 3.13 and newer it must compile python-olm: install cmake and a C++ "
            "compiler, or run the tests with Python 3.11 or 3.12",
        )

    return ensured("python", [REQUIREMENTS], install) / "bin" / "python"


def js_client(scenario: str = "client") -> list[str]:
    """The command that runs `js/SCENARIO.mjs`: Node and a copy of the scripts beside their `node_modules`."""
    tools = python().parent
    environment = {**os.environ, "PATH": f"{tools}:{os.environ.get('PATH', '')}"}

    def install(target: Path) -> None:
        target.mkdir()
        for name in JS_PINS:
            shutil.copy2(HERE / "js" / name, target)
        _run(
            [str(tools / "npm"), "ci", "--ignore-scripts"],
            "let npm reach a package registry (its settings are honoured)",
            cwd=target,
            env=environment,
        )

    directory = ensured("js", [REQUIREMENTS, *(HERE / "js" / name for name in JS_PINS)], install)
    # Node looks for packages beside the script's own path, so the scripts go where they are. Another test's client may
    # be reading them: each is there wholly at any time.
    with _locked("js"):
        for script in (HERE / "js").glob("*.mjs"):
            whole = directory / f".{script.name}"
            shutil.copy2(script, whole)
            whole.replace(directory / script.name)
    return [str(tools / "node"), str(directory / f"{scenario}.mjs")]


def ensured(name: str, pins: list[Path], install: Callable[[Path], None]) -> Path:
    """A directory that `install` made, once for these contents of `pins`."""
    digest = hashlib.sha256(b"\0".join([sys.version.encode(), *(pin.read_bytes() for pin in pins)]))
    target = CACHE / f"{name}-{digest.hexdigest()[:12]}"
    marker = target / ".complete"
    with _locked(name):
        if not marker.exists():
            shutil.rmtree(target, ignore_errors=True)
            install(target)
            marker.touch()
    return target


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    """One installer of an environment at a time, over processes."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(
    command: list[str], remedy: str, *, cwd: Path | None = None, env: dict[str, str] | None = None
) -> None:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode != 0:
        raise NotInstallable(
            f"The clients of the interoperability tests could not be installed: {remedy}.\n"
            f"$ {' '.join(command)}\n{done.stdout}{done.stderr}"
        )
