# SPDX-License-Identifier: Apache-2.0
"""The database of the running server, for commands that look into it.

Owns finding it, the embedded one too, and what becomes of its errors.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2.errors

from homeserver.config import Config, StartRefused
from storage.embedded_access import running_embedded_database


@contextmanager
def running_database(config: Config) -> Iterator[str]:
    """Its connection string. Raises StartRefused, also for what Postgres raises within."""
    dsn = config.database.url or running_embedded_database(config.data_dir)
    if dsn is None:
        raise StartRefused(f"no server runs on {config.data_dir}: start it first")
    try:
        yield dsn
    except (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedFunction) as error:
        raise StartRefused("the database is of an older release: start the server first") from error
    except psycopg2.Error as error:
        sentence = str(error).strip().partition("\n")[0]
        raise StartRefused(f"the database cannot be read: {sentence}") from error
