# SPDX-License-Identifier: Apache-2.0
"""What there is once per server, however many processes serve: the files of `data_dir` and the database.

Owns making them at the first start, bringing the schema up to date, and the life of an embedded database: its start,
its revival, its end. Blocks, and needs no reactor: it is used by the one process of a server, or by the parent of many.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable

import psycopg2
from msgspec import Struct
from psycopg2.extensions import parse_dsn

from homeserver.config import Config, StartRefused
from homeserver.config import registration_secret as registration_secrets
from homeserver.config import signing_key as signing_keys
from homeserver.protocol.signing import SigningKey
from storage.embedded import SETTINGS, EmbeddedPostgres
from storage.embedded_process import EmbeddedPostgresError
from storage.interruptible import interruptible
from storage.migrate import MigrationError, migrate

logger = logging.getLogger(__name__)

_CONNECTIONS_EACH = 10
"""Of one process to the database, with one to spare."""


class Secrets(Struct, frozen=True):
    """What proves that a process is this server's."""

    signing_key: SigningKey
    registration_secret: str


class Premises:
    """Those of one configuration. `open` in the main thread, `close` in any case."""

    def __init__(self, config: Config, check: Callable[[], None]) -> None:
        """`check` is called now and then while something blocks; what it raises ends that."""
        self.made: list[str] = []
        """What was not there before, in words."""
        self._config = config
        self._check = check
        self._embedded: EmbeddedPostgres | None = None
        self._obstacle: str | None = None
        """What keeps the embedded database from being started again, as it was told last."""

    def open(self) -> tuple[Secrets, str]:
        """The secrets, and the connection string of a database that is up to date. Raises StartRefused."""
        with interruptible(self._check):
            secrets = self._open_files()
            dsn = self._open_database()
            self._check()
        return secrets, dsn

    @property
    def is_looked_after(self) -> bool:
        """Whether the database is this server's own, so that `revive` has something to do."""
        return self._embedded is not None

    def revive(self) -> None:
        """A look at the embedded database, if there is one: it is started again if it has ended. Raises StartRefused.

        To be called every second or so; waits for nothing. The database may have been killed; what it had committed is
        in its files.
        """
        if self._embedded is None:
            return
        try:
            revived = self._embedded.revive()
        except EmbeddedPostgresError as error:
            raise StartRefused(
                f"the embedded database had ended and does not start again: {error}"
            ) from error
        except (OSError, subprocess.SubprocessError) as error:
            # No memory or no process to be had: that passes, and the server is of use again when it has.
            if self._obstacle != str(error):
                self._obstacle = str(error)
                logger.critical(
                    "the embedded database has ended and cannot be started now: %s; it is tried again every second",
                    error,
                )
            return
        if revived:
            self._obstacle = None
            logger.critical("the embedded database had ended; it was started again")

    def close(self) -> None:
        """End the embedded database, if there is one. Nobody may need it any more."""
        if self._embedded is not None:
            self._embedded.stop()

    def _open_files(self) -> Secrets:
        """The signing key and the registration secret, made if they are not there yet."""
        config = self._config
        key_path = config.data_dir / signing_keys.FILE_NAME
        secret_path = config.data_dir / registration_secrets.FILE_NAME
        had_key, had_secret = key_path.exists(), secret_path.exists()
        try:
            config.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StartRefused(
                f"cannot make the folder {config.data_dir} (data_dir): {error.strerror}"
            ) from error
        secrets = read_secrets(config)
        if not had_key:
            self.made.append(f"the signing key in {key_path}")
        if not had_secret and secret_path.exists():
            self.made.append(f"the registration secret in {secret_path}")
        return secrets

    def _open_database(self) -> str:
        dsn = self._config.database.url
        if dsn is None:
            return self._open_embedded()
        bring_up_to_date(dsn)
        return dsn

    def _open_embedded(self) -> str:
        place = self._config.data_dir / "postgres"
        existed = place.exists()
        # In a rolling restart there are for a while twice as many processes.
        connections = max(int(SETTINGS["max_connections"]), 20 + 2 * _CONNECTIONS_EACH * self._config.workers)
        try:
            self._embedded = EmbeddedPostgres(
                self._config.data_dir, settings={"max_connections": str(connections)}
            )
            dsn = self._embedded.start(self._check)
            migrate(dsn)
        except EmbeddedPostgresError as error:
            raise StartRefused(str(error)) from error
        except MigrationError as error:
            raise StartRefused(f"the database cannot be used: {error}") from error
        except psycopg2.Error as error:
            raise StartRefused(f"the embedded database does not work: {sentence(error)}") from error
        if not existed:
            self.made.append(f"the database in {place}")
        return dsn


def read_secrets(config: Config) -> Secrets:
    """Those of `data_dir`, made if they are not there yet. Raises StartRefused."""
    return Secrets(
        signing_keys.load_or_create_signing_key(config.data_dir),
        registration_secrets.load_or_create_registration_secret(config),
    )


def bring_up_to_date(dsn: str, *, others_serve: bool = False) -> None:
    """Migrate the database that `database.url` names. Raises StartRefused; if `others_serve`, also where those of the
    release before could not go on."""
    try:
        place = _place(dsn)
        migrate(dsn, others_serve=others_serve)
    except MigrationError as error:
        raise StartRefused(f"the database cannot be used: {error}") from error
    except psycopg2.errors.InsufficientPrivilege as error:
        raise StartRefused(
            f"the database cannot be used: {sentence(error)}; the user of database.url must own the database"
        ) from error
    except psycopg2.Error as error:
        raise StartRefused(f"cannot use the database {place} (database.url): {sentence(error)}") from error


def sentence(error: BaseException) -> str:
    """What a database said, without the hints and excerpts that follow."""
    if isinstance(error, psycopg2.Error) and error.diag.message_primary:
        return error.diag.message_primary
    return str(error).strip().partition("\n")[0].removeprefix("FATAL:").strip()


def _place(dsn: str) -> str:
    """Which database a URL means, without its password. Raises StartRefused if that can't be told."""
    # The texts of libpq's own errors may hold a piece of the password.
    wrong = StartRefused(
        "database.url is not a valid URL; special characters of the password must be percent-encoded"
    )
    try:
        parts = parse_dsn(dsn)
    except psycopg2.ProgrammingError:
        raise wrong from None
    port = str(parts.get("port", 5432))
    if not all(each.isdigit() for each in port.split(",") if each):  # several hosts have several
        raise wrong
    return f"{parts.get('dbname', '')!r} at {parts.get('host', 'the local socket')} port {port}"
