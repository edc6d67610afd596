# SPDX-License-Identifier: Apache-2.0
"""One server for all histories, and how long to look: `--hypothesis-profile=thorough` for longer than usual."""

from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

from tests.serving import ServerProcess, logs_of_running_servers, serving
from tests.sync_proof.running import Runner

settings.register_profile("thorough", max_examples=3000, derandomize=False)


@pytest.fixture(scope="session")
def sync_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with its embedded database; its log must hold no traceback at the end."""
    with serving(tmp_path_factory.mktemp("sync")) as server:
        yield server
    assert "Traceback (most recent call last)" not in server.log(), server.log()[-12_000:]


@pytest.fixture(scope="session")
def runner(sync_server: ServerProcess) -> Iterator[Runner]:
    """Runs histories on the server."""
    runner = Runner(sync_server.port)
    yield runner
    runner.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the server's log to a failure."""
    report = yield
    if report.failed:
        report.sections += logs_of_running_servers()
    return report
