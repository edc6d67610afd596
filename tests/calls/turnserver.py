# SPDX-License-Identifier: Apache-2.0
"""A real coturn on loopback: the system's, or Debian's packages unpacked into the checkout's `.venv-clients/`.

Owns getting it without root (what apt would install is downloaded, checked by apt, and unpacked, not installed), its
configuration, and its process. It shares a secret with the server under test, as docs/calls.md has it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from tests.interop.environments import NotInstallable, ensured
from tests.serving import free_port
from tests.waiting import wait_until

SECRET = "a secret of coturn and the server"
REALM = "turn.localhost"


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
    port: int = field(default_factory=free_port)
    tls_port: int = field(default_factory=free_port)
    certificate: Path | None = None
    private_key: Path | None = None
    ca_file: Path | None = None
    lines: list[str] = field(default_factory=list)

    @property
    def uris(self) -> dict[str, str]:
        """By each way it can be reached."""
        uris = {each: f"turn:127.0.0.1:{self.port}?transport={each}" for each in ("udp", "tcp")}
        if self.certificate is not None:
            uris["tls"] = f"turns:localhost:{self.tls_port}?transport=tcp"
        return uris

    @property
    def settings(self) -> dict[str, object]:
        """The section `turn` of a server that uses it."""
        return {"uris": list(self.uris.values()), "shared_secret": SECRET}

    def configuration(self) -> str:
        """Its `turnserver.conf`."""
        lines = [
            "listening-ip=127.0.0.1",
            "relay-ip=127.0.0.1",
            f"listening-port={self.port}",
            f"tls-listening-port={self.tls_port}",
            "use-auth-secret",
            f"static-auth-secret={SECRET}",
            f"realm={REALM}",
            "allow-loopback-peers",
            "cli-password=of no use to anybody",
            "no-cli",
            "log-file=stdout",
            "simple-log",
            f"pidfile={self.directory / 'coturn.pid'}",
            f"userdb={self.directory / 'coturn.sqlite'}",
            "verbose",
        ]
        if self.certificate is None:
            lines += ["no-tls", "no-dtls"]
        else:
            lines += [f"cert={self.certificate}", f"pkey={self.private_key}"]
        return "\n".join(lines) + "\n"

    def said(self, text: str) -> bool:
        """Whether a line of its log has the text."""
        return any(text in line for line in self.lines)


@contextlib.contextmanager
def coturn(
    directory: Path,
    *,
    certificate: Path | None = None,
    private_key: Path | None = None,
    ca_file: Path | None = None,
) -> Iterator[Coturn]:
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
        wait_until(lambda: process.poll() is not None or _listens(server.port), "coturn's port", timeout=30.0)
        assert process.poll() is None, "".join(server.lines)[-4000:]
        yield server
    finally:
        process.terminate()
        process.wait(30.0)
        reader.join(5.0)
        process.stdout.close()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False
