# SPDX-License-Identifier: Apache-2.0
"""A server process for the foreign clients, and its log in the report of a test that fails."""

from collections.abc import Generator, Iterator

import pytest

from tests.serving import ServerProcess, logs_of_running_servers, serving


@pytest.fixture(scope="session")
def lares_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server with its embedded database for all clients; its log must hold no traceback at the end."""
    with serving(tmp_path_factory.mktemp("server")) as server:
        yield server
    assert "Traceback (most recent call last)" not in server.log(), server.log()[-12_000:]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the servers' logs to a failure."""
    report = yield
    if report.failed:
        report.sections += logs_of_running_servers()
    return report
