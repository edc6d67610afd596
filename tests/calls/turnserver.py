# SPDX-License-Identifier: Apache-2.0
"""A real coturn on loopback: the system's, or Debian's packages unpacked into the checkout's `.venv-clients/`.

Owns getting it without root (what apt would install is downloaded, checked by apt, and unpacked, not installed), and
its process. Both it and the server under test are configured with what docs/calls.md tells an administrator to write;
only names, ports, certificates and what loopback needs differ.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

from tests.interop.environments import NotInstallable, ensured
from tests.serving import CHECKOUT, free_port
from tests.waiting import wait_until

SECRET = "PUT-THE-SECRET-HERE"
HOST = "turn.example.org"
_ONLY_HERE = ("allow-loopback-peers", "cli-password=of no use to anybody", "log-file=stdout", "simple-log")
"""Loopback, and a log that the tests can read."""


def page_block(language: str) -> str:
    """The block of that language in the page's section on coturn."""
    page = (CHECKOUT / "docs" / "calls.md").read_text(encoding="utf-8")
    section = page.partition("## Calls between two, with coturn\n")[2].partition("\n## ")[0]
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return str(found)


def turnserver() -> tuple[Path, dict[str, str]]:
    """The program, and the environment it needs."""
    found = shutil.which("turnserver")
    if found is not None:
        return Path(found), dict(os.environ)
    root = ensured("coturn", [Path("/etc/os-release")], _unpack)
    libraries = root / "usr" / "lib" / f"{platform.machine()}-linux-gnu"
    return root / "usr" / "bin" / "turnserver", {**os.environ, "LD_LIBRARY_PATH": str(libraries)}


def _unpack(target: Path) -> None:
    """Unpack coturn and the libraries it lacks here."""
    downloads = target / "downloads"
    downloads.mkdir(parents=True)
    for options in ([], _own_lists(target)):
        with contextlib.suppress(subprocess.CalledProcessError, OSError):
            if options:
                _run(["apt-get", *options, "update"], downloads)
            names = _missing(options, downloads)
            _run(["apt-get", *options, "download", *names], downloads)
            break
    packages = sorted(downloads.glob("*.deb"))
    if not any(package.name.startswith("coturn_") for package in packages):
        raise NotInstallable(
            "coturn could not be downloaded by apt-get: install Debian's coturn, or let apt-get reach its archive"
        )
    for package in packages:
        _run(["dpkg-deb", "-x", str(package), str(target)], downloads)


def _own_lists(target: Path) -> list[str]:
    """Options by which apt keeps lists of its own, as where the system has none."""
    lists = target / "lists"
    (lists / "partial").mkdir(parents=True)
    return [
        *("-o", f"Dir::State::Lists={lists}"),
        *("-o", f"Dir::Cache={target / 'cache'}"),
        *("-o", "Debug::NoLocking=1"),
    ]


def _missing(options: list[str], place: Path) -> list[str]:
    """Names, with versions, of what apt would install."""
    command = ["apt-get", *options, "-o", "Debug::NoLocking=1", "install", "--no-install-recommends", "-y"]
    printed = _run([*command, "--print-uris", "coturn"], place)
    files = [line.split()[1] for line in printed.splitlines() if line.startswith("'")]
    parts = (unquote(name).removesuffix(".deb").split("_") for name in files)
    return [f"{name}={version}" for name, version, _ in parts]


def _run(command: list[str], place: Path) -> str:
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=True, timeout=600)
    return done.stdout


@dataclass
class Coturn:
    """One running coturn."""

    directory: Path
    certificate: Path
    private_key: Path
    ca_file: Path
    port: int = field(default_factory=free_port)
    tls_port: int = field(default_factory=free_port)
    lines: list[str] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        """The section `turn` of a server that uses it: the page's, at the tests' places."""
        written = page_block("yaml").replace(f"{HOST}:5349", f"localhost:{self.tls_port}")
        settings: dict[str, Any] = yaml.safe_load(written.replace(f"{HOST}?", f"127.0.0.1:{self.port}?"))
        assert HOST not in str(settings)
        return dict(settings["turn"])

    @property
    def uris(self) -> dict[str, str]:
        """By each way it can be reached."""
        return dict(zip(("udp", "tcp", "tls"), self.settings["uris"], strict=True))

    def configuration(self) -> str:
        """The page's `turnserver.conf`, at the tests' places."""
        here = {
            "listening-port": self.port,
            "tls-listening-port": self.tls_port,
            "cert": self.certificate,
            "pkey": self.private_key,
        }
        lines = ["listening-ip=127.0.0.1", "relay-ip=127.0.0.1", *_ONLY_HERE]
        lines += [f"pidfile={self.directory / 'coturn.pid'}", f"userdb={self.directory / 'coturn.sqlite'}"]
        for line in page_block("ini").splitlines():
            name = line.partition("=")[0]
            if line.startswith("denied-peer-ip=127.") or line == "syslog":
                continue
            lines.append(f"{name}={here.pop(name)}" if name in here else line)
        assert not here, f"the page says nothing of {here}"
        return "\n".join(lines) + "\n"

    def said(self, text: str) -> bool:
        """Whether a line of its log has the text."""
        return any(text in line for line in self.lines)


@contextlib.contextmanager
def coturn(directory: Path, *, certificate: Path, private_key: Path, ca_file: Path) -> Iterator[Coturn]:
    """Run one until the block ends."""
    directory.mkdir(parents=True, exist_ok=True)
    program, environment = turnserver()
    server = Coturn(directory, certificate=certificate, private_key=private_key, ca_file=ca_file)
    config = directory / "turnserver.conf"
    config.write_text(server.configuration())
    process = subprocess.Popen(
        [str(program), "-c", str(config)],
        env=environment,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: server.lines.extend(process.stdout or ()), daemon=True)
    reader.start()
    try:
        for port in (server.port, server.tls_port):
            wait_until(
                lambda port=port: process.poll() is not None or _listens(port),  # type: ignore[misc]
                "coturn's port",
                timeout=120.0,
            )
        assert process.poll() is None, "".join(server.lines)[-4000:]
        yield server
    finally:
        process.terminate()
        process.wait(60.0)
        reader.join(5.0)
        process.stdout.close()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False
