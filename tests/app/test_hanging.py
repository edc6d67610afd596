# SPDX-License-Identifier: Apache-2.0
"""A process that hangs is found out: a worker by its parent, the main process by systemd."""

from __future__ import annotations

import errno
import os
import queue
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from homeserver.app.service_manager import ServiceManager
from homeserver.app.workers.pulse import Pulse
from tests.app.crews import advance, serving_crew_of
from tests.serving import as_url, serving, workers_of
from tests.waiting import wait_until

PATIENCE = 60.0


def test_time_in_which_nobody_looked_counts_for_little() -> None:
    """A machine that slept has not seen its workers hang, nor has one whose parent got no processor."""
    pulse = Pulse(10.0)
    assert not any(pulse.stopped(0, float(now)) for now in range(100)), "it has not begun"
    assert not pulse.stopped(1, 100.0)
    assert not pulse.stopped(1, 5000.0)
    assert not any(pulse.stopped(1, 5000.0 + second) for second in range(8))
    assert pulse.stopped(1, 5008.0)
    assert not pulse.stopped(2, 5009.0)
    assert [pulse.stopped(2, 5010.0 + second) for second in range(10)].index(True) == 9


def test_workers_that_hang_are_replaced(
    tmp_path: Path, database_url: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """They write where they hang, if they can, and end in any case; those that follow are not suspected.

    To its parent a worker that is stopped looks like one that is in an endless loop. Only while both are stopped the
    parent's clock is fast: a machine that gives others no processor for seconds makes nobody hang.
    """
    hang, ended = "a worker has done nothing for 60 s", "a worker died: it ended by "
    with serving_crew_of(2, tmp_path, database_url, patience=PATIENCE) as crew:
        able, unable = workers_of(os.getpid())
        for pid in (able, unable):
            os.kill(pid, signal.SIGSTOP)
        ahead = advance(crew, lambda: caplog.text.count(hang) == 2, pace=0.5)
        os.kill(able, signal.SIGCONT)
        wait_until(lambda: able not in workers_of(os.getpid()), "its last words")
        advance(
            crew,
            lambda: f"{ended}SIGABRT" in caplog.text and f"{ended}SIGKILL" in caplog.text,
            begin=ahead,
        )
        said = capfd.readouterr().err
        assert said.count("Fatal Python error: Aborted") == 1
        assert "homeserver/app/workers/child.py" in said
        advance(crew, lambda: len(set(workers_of(os.getpid())) - {able, unable}) == 2, begin=ahead)
        assert caplog.text.count(hang) == 2


# systemd.


@contextmanager
def manager(directory: Path) -> Iterator[queue.SimpleQueue[bytes]]:
    """What systemd hears at the socket `notify` of a folder, as it hears it."""
    heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        while message := listener.recv(100):
            heard.put(message)

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(directory / "notify"))
        listening = threading.Thread(target=listen)
        listening.start()
        try:
            yield heard
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ending:
                ending.sendto(b"", str(directory / "notify"))
            listening.join()


@pytest.mark.parametrize("workers", [1, 2])
def test_systemd_is_told(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """That the server is ready, again and again that it lives, and that it stops."""
    with manager(tmp_path) as heard:
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "1000000")
        with serving(tmp_path / "server", database_url=as_url(database_url), workers=workers):
            monkeypatch.undo()
            assert heard.get(timeout=60.0) == b"READY=1"
            for _ in range(3):
                assert heard.get(timeout=60.0) == b"WATCHDOG=1"
        while (message := heard.get(timeout=60.0)) != b"STOPPING=1":
            assert message == b"WATCHDOG=1"


def test_only_who_is_asked_tells(tmp_path: Path) -> None:
    """Another process of the service tells nothing of its life, and what it starts inherits nothing."""
    with manager(tmp_path) as heard:
        place = str(tmp_path / "notify")
        environment = {"NOTIFY_SOCKET": place, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1", "HOME": "/"}
        another = ServiceManager.take_from(environment)
        assert environment == {"HOME": "/"}
        assert another.interval is None
        another.alive()
        another.ready()
        assert heard.get(timeout=60.0) == b"READY=1"
        assert heard.empty()
    another.stopping()  # the manager is gone: nothing is raised
    nobody = ServiceManager.take_from({})
    nobody.ready()
    nobody.alive()


def test_nobody_ends_because_systemd_cannot_be_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not even for want of a descriptor to tell it by."""

    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    manager = ServiceManager(str(tmp_path / "nobody"), 2.0)
    manager.ready()
    monkeypatch.setattr(socket, "socket", none_left)
    manager.ready()
    manager.alive()
    manager.stopping()
