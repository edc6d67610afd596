# SPDX-License-Identifier: Apache-2.0
"""Fixtures and hooks for every test: a throw-away Postgres, a database per test, and async tests.

Fixtures:

- `database_url`: the connection string of a fresh database with the whole schema, the test's own;
- `empty_database_url`: the same without any schema;
- `database`: a `Database` on `database_url`, closed after the test;
- `postgres`: the session's server, for tests that need its process.

Plain `async def test_…` functions are run on the reactor; see `tests/reactor.py`. In what order tests run, and which
of them on one worker: `tests/distribution.py`.
"""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from hypothesis import settings
from psycopg2.extensions import make_dsn
from xdist.remote import Producer

from storage.database import ConnectionSettings, Database, PoolSettings
from storage.embedded import EmbeddedPostgres
from storage.migrate import migrate
from tests import reactor as runner
from tests.delays import sitecustomize
from tests.distribution import SERVED_BY_SEVERAL, ByUnit, arrange
from tests.serving import WORKERS_VARIABLE

Administer = Callable[[str], None]

# A machine that stops for a moment makes no example wrong, whichever it was at. What a run finds is to say something of
# the change it looks at, so it draws the same examples each time; `--hypothesis-profile=searching` draws new ones.
settings.register_profile("lares", deadline=None, derandomize=True)
settings.register_profile("searching", deadline=None, derandomize=False)
settings.load_profile("lares")

_serial = count(1)
_TEMPLATE = "lares_template"
_BEFORE = pytest.StashKey[set[Any]]()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The connection string of the session's server, as its superuser. Nothing in it outlives the session."""
    with tempfile.TemporaryDirectory(prefix="lares-test-", dir=_scratch_place()) as directory:
        Path(directory).chmod(0o755)  # as root the server runs as another user, who must reach its files
        server = EmbeddedPostgres(
            Path(directory),
            settings={
                "fsync": "off",
                "full_page_writes": "off",
                "synchronous_commit": "off",
                "autovacuum": "off",
                "max_connections": "200",
                "checkpoint_timeout": "1h",
            },
        )
        try:
            yield server.start()
        finally:
            server.stop()


def _scratch_place() -> str | None:
    """Memory, where there is plenty: making a database per test is ten times quicker there than on a busy disk.

    None for pytest's own choice. What tests leave is removed as soon as they passed (`tmp_path_retention_policy`).
    """
    memory = "/dev/shm"
    if not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < 4 << 30:
        return None
    return memory


@pytest.fixture(scope="session")
def _administer(postgres: str) -> Iterator[Administer]:
    """Carries out statements that make and drop databases, over one connection for all of them."""
    with closing(psycopg2.connect(make_dsn(postgres, dbname="postgres"))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor.execute


@pytest.fixture(scope="session")
def _template(postgres: str, _administer: Administer) -> str:
    """The name of a database with the whole schema, for copying."""
    _administer(f"CREATE DATABASE {_TEMPLATE}")
    migrate(make_dsn(postgres, dbname=_TEMPLATE))
    return _TEMPLATE


@pytest.fixture
def database_url(postgres: str, _administer: Administer, _template: str) -> Iterator[str]:
    """The connection string of a database of the test's own, with the whole schema."""
    yield from _fresh_database(postgres, _administer, f"TEMPLATE {_template} STRATEGY FILE_COPY")


@pytest.fixture
def empty_database_url(postgres: str, _administer: Administer) -> Iterator[str]:
    """The connection string of a database of the test's own, with no schema."""
    yield from _fresh_database(postgres, _administer, "")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The test's own database, opened with a small pool."""
    database = Database(
        runner.reactor,
        database_url,
        connection=ConnectionSettings(application_name="test"),
        pool=PoolSettings(size=4),
    )
    yield database
    runner.run(database.close(grace=1.0))


def _fresh_database(server: str, administer: Administer, options: str) -> Iterator[str]:
    name = f"test_{next(_serial)}"
    administer(f"CREATE DATABASE {name} {options}")
    try:
        yield make_dsn(server, dbname=name)
    finally:
        administer(f"DROP DATABASE {name} WITH (FORCE)")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--workers", type=int, metavar="N", help="processes of each server whose test does not say how many"
    )
    parser.addoption(
        "--delays",
        type=float,
        metavar="SHARE",
        help="of all that is read, which then comes late (tests/delays)",
    )


def pytest_configure(config: pytest.Config) -> None:
    workers = config.getoption("--workers")
    if workers is not None:  # processes of pytest-xdist get it from their environment
        os.environ[WORKERS_VARIABLE] = str(workers)
        if workers > 1 and config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args = list(SERVED_BY_SEVERAL)
    share = config.getoption("--delays")
    if share:  # the processes that are started from here read their environment
        os.environ[sitecustomize.VARIABLE] = str(share)
        paths = [str(Path(sitecustomize.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        sitecustomize.begin(share)
    place = _scratch_place()
    if place is not None:  # databases wait for their disk, which is not what is tested
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", place)
        tempfile.tempdir = place
    config.addinivalue_line(
        "markers", "reactor_timeout(seconds): another time limit for an async test than 300 s"
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    arrange(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByUnit:
    return ByUnit(config, log)


def pytest_sessionfinish() -> None:
    runner.shut_down()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def` tests on the reactor, those of hypothesis' `@given` example by example."""
    marker = pyfuncitem.get_closest_marker("reactor_timeout")
    timeout: float = marker.args[0] if marker else runner.DEFAULT_TIMEOUT
    function = pyfuncitem.obj
    if inspect.iscoroutinefunction(function):
        wanted = inspect.signature(function).parameters
        runner.run(function(**{name: pyfuncitem.funcargs[name] for name in wanted}), timeout)
        return True
    handle = getattr(function, "hypothesis", None)
    if handle is not None and inspect.iscoroutinefunction(handle.inner_test):
        handle.inner_test = _synchronous(handle.inner_test, timeout)
    return None


def _synchronous(function: Callable[..., Any], timeout: float) -> Callable[..., Any]:
    def example(*args: Any, **kwargs: Any) -> Any:
        return runner.run(function(*args, **kwargs), timeout)

    return example


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    item.stash[_BEFORE] = runner.registered()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    result = yield
    left = runner.clear_leftovers(item.stash[_BEFORE])
    if left:
        pytest.fail("left behind on the reactor: " + ", ".join(left), pytrace=False)
    return result
