# SPDX-License-Identifier: Apache-2.0
"""Homeservers to measure: each with a Postgres of its own, started from nothing, ended without trace.

Both get the same terms: registration by shared secret, cheap password hashing, no rate limits, no federation,
presence on, and otherwise their own defaults. `Homeserver` is all the rest of the benchmark knows of them.
"""

import fcntl
import hashlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import yaml

from scripts.benchmarks.cluster import Cluster
from scripts.benchmarks.processes import Child, ProcessFailed

SERVER_NAME: Final = "bench.localhost"
SHARED_SECRET: Final = "benchmark"
CHECKOUT: Final = Path(__file__).resolve().parents[2]
DATABASE: Final = "homeserver"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Federated:
    """How a server takes part in a federation of this machine: PEM files, all signed by one authority."""

    certificate: Path
    private_key: Path
    ca_file: Path


class Homeserver(ABC):
    """A running homeserver on `127.0.0.1:port`, its cluster, and their processes."""

    key: str
    """The name used on the command line and in the JSON."""
    label: str

    def __init__(self, directory: Path, *, federated: Federated | None = None) -> None:
        """Start everything under `directory` (created); raise `ProcessFailed` if it does not get ready."""
        directory.mkdir(mode=0o711)
        self.directory = directory
        self.port = free_port()
        self.federated = federated
        self.federation_port = free_port()
        self.server_name = SERVER_NAME if federated is None else f"localhost:{self.federation_port}"
        database_directory = directory / "postgres"
        database_directory.mkdir(mode=0o711)
        self.cluster = Cluster(database_directory)
        try:
            self.cluster.create_database(DATABASE)
            started = time.monotonic()
            self.process = self._start()
            try:
                self._wait_until_ready()
            except BaseException:
                self.process.stop()
                raise
            self.start_seconds = time.monotonic() - started
        except BaseException:
            self.cluster.stop()
            raise

    @property
    @abstractmethod
    def version(self) -> str:
        """The version, as a person would name it in a bug report."""

    @abstractmethod
    def _start(self) -> Child:
        """Write the configuration and start the server's process."""

    @abstractmethod
    def _wait_until_ready(self) -> None:
        """Return when requests are accepted."""

    def stop(self) -> None:
        """End the server, then its database."""
        try:
            self.process.stop()
        finally:
            self.cluster.stop()


class Lares(Homeserver):
    """This checkout's server, run by the environment the benchmark itself runs in."""

    key = "lares"
    label = "Lares"

    def __init__(
        self,
        directory: Path,
        *,
        workers: int = 1,
        federated: Federated | None = None,
        settings: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """`settings` are keys of the configuration besides those that the comparison needs."""
        self._workers = workers
        self._other_settings = settings
        super().__init__(directory, federated=federated)

    @property
    def version(self) -> str:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--tags"],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
        )
        return described.stdout.strip() or "unknown"

    def _start(self) -> Child:
        config = self.directory / "lares.yaml"
        config.write_text(yaml.safe_dump(self._settings(), sort_keys=False))
        lares = Path(sys.executable).parent / "lares"
        return Child(
            [lares, "serve", "--config", config], log=self.directory / "lares.log", cwd=self.directory
        )

    def _settings(self) -> dict[str, object]:
        listeners: list[dict[str, object]] = [
            {"bind": "127.0.0.1", "port": self.port, "serves": ["client", "admin", "metrics"]}
        ]
        federation: dict[str, object] = {"enabled": False}
        if self.federated is not None:
            files = {
                "certificate": str(self.federated.certificate),
                "private_key": str(self.federated.private_key),
            }
            listeners.append(
                {"bind": "127.0.0.1", "port": self.federation_port, "serves": ["federation"], "tls": files}
            )
            federation = {
                "ca_file": str(self.federated.ca_file),
                "allow_ip_ranges": ["127.0.0.0/8", "::1/128"],
            }
        return {
            "server_name": self.server_name,
            "public_baseurl": f"http://127.0.0.1:{self.port}/",
            "data_dir": str(self.directory / "data"),
            "database": {"url": self.cluster.url(DATABASE)},
            "workers": self._workers,
            "listeners": listeners,
            "registration": {"enabled": False, "shared_secret": SHARED_SECRET},
            "passwords": {"argon2_time_cost": 1},
            "rate_limits": {"enabled": False},
            "presence": {"enabled": True},
            "federation": federation,
            **self._other_settings,
        }

    def _wait_until_ready(self) -> None:
        self.process.wait_for_line("ready:", seconds=60)


class Synapse(Homeserver):
    """Synapse from PyPI in an environment of its own; see `prepare`."""

    key = "synapse"
    label = "Synapse"
    ENVIRONMENT: Final = CHECKOUT / ".venv-synapse"
    REQUIREMENTS: Final = Path(__file__).parent / "synapse-requirements.txt"

    @classmethod
    def prepare(cls, progress: Progress) -> None:
        """Install Synapse into its environment if what is there is not what is asked for. A minute, once."""
        wanted = hashlib.sha256(cls.REQUIREMENTS.read_bytes()).hexdigest()
        installed = cls.ENVIRONMENT / "installed"
        with cls.ENVIRONMENT.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one installer at a time, over processes
            if not installed.exists() or installed.read_text() != wanted:
                cls._install(progress)
                # Written last, so that an installation broken off is begun again.
                installed.write_text(wanted)

    @classmethod
    def _install(cls, progress: Progress) -> None:
        progress(f"Installing Synapse into {cls.ENVIRONMENT} (once)")
        subprocess.run([sys.executable, "-m", "venv", "--clear", cls.ENVIRONMENT], check=True)
        (cls.ENVIRONMENT / ".gitignore").write_text("*\n")
        python = cls.ENVIRONMENT / "bin" / "python"
        subprocess.run(
            [
                python,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--only-binary",
                ":all:",
                "-r",
                cls.REQUIREMENTS,
            ],
            check=True,
            stdout=sys.stderr,
        )

    @property
    def version(self) -> str:
        code = "from importlib.metadata import version; print(version('matrix-synapse'))"
        answer = subprocess.run([self._python, "-c", code], capture_output=True, check=True, text=True)
        return answer.stdout.strip()

    @property
    def _python(self) -> Path:
        return self.ENVIRONMENT / "bin" / "python"

    def _start(self) -> Child:
        config = self.directory / "homeserver.yaml"
        config.write_text(yaml.safe_dump(self._settings(), sort_keys=False))
        command: list[str | Path] = [self._python, "-m", "synapse.app.homeserver", "--config-path", config]
        generated = subprocess.run(
            [*command, "--generate-keys"], cwd=self.directory, capture_output=True, check=False, text=True
        )
        if generated.returncode != 0:
            raise ProcessFailed(f"Synapse refuses its configuration:\n{generated.stdout}{generated.stderr}")
        return Child(command, log=self.directory / "synapse.log", cwd=self.directory)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                self.process.require_running()
                if time.monotonic() > deadline:
                    raise ProcessFailed(f"Synapse does not answer\n{self.process.tail()}") from None
                time.sleep(0.05)

    def _settings(self) -> dict[str, object]:
        logging = self.directory / "logging.yaml"
        logging.write_text(yaml.safe_dump(SYNAPSE_LOGGING))
        listener = {"bind_addresses": ["127.0.0.1"], "type": "http"}
        federation: dict[str, object] = {"federation_domain_whitelist": []}
        listeners: list[dict[str, object]] = [
            {**listener, "port": self.port, "resources": [{"names": ["client", "health"]}]}
        ]
        if self.federated is not None:
            names = ["federation", "keys"]
            listeners.append(
                {**listener, "port": self.federation_port, "tls": True, "resources": [{"names": names}]}
            )
            federation = {
                "tls_certificate_path": str(self.federated.certificate),
                "tls_private_key_path": str(self.federated.private_key),
                "federation_custom_ca_list": [str(self.federated.ca_file)],
                "ip_range_blacklist": [],
                "federation_ip_range_blacklist": [],
                "rc_federation": {
                    "window_size": 1000,
                    "sleep_limit": 1_000_000,
                    "reject_limit": 1_000_000,
                    "concurrent": 50,
                },
            }
        return {
            "server_name": self.server_name,
            "pid_file": str(self.directory / "synapse.pid"),
            "listeners": listeners,
            "database": {
                "name": "psycopg2",
                "args": {"dsn": self.cluster.url(DATABASE), "cp_min": 5, "cp_max": 10},
            },
            "log_config": str(logging),
            "media_store_path": str(self.directory / "media"),
            "signing_key_path": str(self.directory / "signing.key"),
            "registration_shared_secret": SHARED_SECRET,
            "macaroon_secret_key": "benchmark",
            "bcrypt_rounds": 4,
            "report_stats": False,
            "trusted_key_servers": [],
            "presence": {"enabled": True},
            **federation,
            # Synapse answers a repeated identical /sync from a cache for two minutes, for clients that lost
            # the answer. The benchmark repeats itself where clients do not: without this it would measure
            # that cache.
            "suppress_key_server_warning": True,
            "caches": {"sync_response_cache_duration": "0s"},
            **SYNAPSE_RATE_LIMITS,
        }


_UNLIMITED: Final = {"per_second": 1_000_000, "burst_count": 1_000_000}
SYNAPSE_RATE_LIMITS: Final[dict[str, object]] = {
    "rc_message": _UNLIMITED,
    "rc_registration": _UNLIMITED,
    "rc_login": {"address": _UNLIMITED, "account": _UNLIMITED, "failed_attempts": _UNLIMITED},
    "rc_joins": {"local": _UNLIMITED, "remote": _UNLIMITED},
    "rc_joins_per_room": _UNLIMITED,
    "rc_room_creation": _UNLIMITED,
    "rc_invites": {"per_room": _UNLIMITED, "per_user": _UNLIMITED, "per_issuer": _UNLIMITED},
    "rc_presence": {"per_user": _UNLIMITED},
    "rc_admin_redaction": _UNLIMITED,
}
SYNAPSE_LOGGING: Final = {
    "version": 1,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"level": "WARNING", "handlers": ["console"]},
    "disable_existing_loggers": False,
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
