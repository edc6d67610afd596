# SPDX-License-Identifier: Apache-2.0
"""One server process for these tests, whose log must stay free of tracebacks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.api.world import Person, World
from tests.serving import ServerProcess, logs_of_running_servers, serving

Arrive = Callable[[str], Person]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server without rate limits that lets guests in."""
    settings = {
        "well_known": {"contacts": [{"role": "m.role.admin", "email_address": "admin@example.org"}]},
        "sessions": {"access_token_lifetime": "1s"},
        "turn": {"uris": ["turn:turn.example.org"], "shared_secret": "known to a TURN server"},
        "rtc": {
            "livekit_url": "wss://livekit.example.org",
            "livekit_api_url": "http://127.0.0.1:9",
            "api_key": "key",
            "api_secret": "known to a LiveKit that is not there",
        },
    }
    with serving(tmp_path_factory.mktemp("api"), settings=settings) as running:
        yield running


_AS_IT_COMES = {"registration": {"requires_token": True}, "rate_limits": {"enabled": True}}


@pytest.fixture(scope="session")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server as it comes: with rate limits, and closed to who has no registration token."""
    with serving(tmp_path_factory.mktemp("strict"), settings=_AS_IT_COMES) as running:
        yield running
    assert "Traceback (most recent call last)" not in running.log(), running.log()[-8000:]


@pytest.fixture
def untouched(tmp_path: Path) -> Iterator[ServerProcess]:
    """As `strict`, and nobody has an account yet."""
    with serving(tmp_path, settings=_AS_IT_COMES) as running:
        yield running
    assert "Traceback (most recent call last)" not in running.log(), running.log()[-8000:]


@pytest.fixture(scope="session")
def world(server: ServerProcess) -> World:
    """People and a room, for tests that leave them as they are."""
    return World(server)


@pytest.fixture
def arrive(server: ServerProcess) -> Arrive:
    """Makes people of the test's own."""
    return lambda name: Person.arrives(server, name)


@pytest.fixture(autouse=True)
def no_traceback(server: ServerProcess) -> Iterator[None]:
    """Whatever a test asked, the server took it calmly."""
    before = len(server.log())
    yield
    log = server.log()[before:]
    assert "Traceback (most recent call last)" not in log, log[-8000:]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the servers' logs to a failure."""
    report = yield
    if report.failed:
        report.sections += logs_of_running_servers()
    return report
