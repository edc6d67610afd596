# SPDX-License-Identifier: Apache-2.0
"""Workers that cannot be started, or that take the place of more than they are: those who serve go on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from homeserver.app.workers.backoff import LONGEST, SETTLED, Backoff
from homeserver.app.workers.crew import Crew
from homeserver.app.workers.listening import Listening
from homeserver.app.workers.members import Edition, _path_option
from homeserver.app.workers.orders import ConfigText
from homeserver.app.workers.reloading import Reloading, check_certificates
from homeserver.config import StartRefused
from homeserver.config.loader import take_over
from tests.app.crews import advance, crew_of, serving_crew_of
from tests.serving import workers_of


def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing can be started, as on a machine without memory or processes to give."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")


def own_workers() -> set[int]:
    return set(workers_of(os.getpid()))


# Pauses.


def test_the_pauses_grow_and_end() -> None:
    """A worker that dies at once each time must not keep the machine busy."""
    backoff, now, pauses = Backoff(), 0.0, []
    for _ in range(9):
        pauses.append(backoff.died(now, started=now))
        now = backoff.ready_at + 1
    assert pauses == [0, 1, 2, 4, 8, 16, 32, LONGEST, LONGEST]
    assert backoff.died(now + SETTLED, started=now) == 0


def test_those_that_end_together_count_once() -> None:
    """Eight that a poor moment ends are followed at once; the eight that follow them and end, too, after one pause."""
    backoff = Backoff()
    assert [backoff.died(100.0 + number / 10, started=0.0) for number in range(8)] == [0.0] * 8
    assert backoff.died(110.0, started=101.0) == 1.0
    assert [backoff.died(110.5, started=101.0) for _ in range(7)] == [0.5] * 7
    assert backoff.ready_at == 111.0
    assert backoff.died(112.0, started=111.0) == 2.0


# No process.


def test_workers_that_cannot_be_started_refuse_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a sentence, and nothing is left running."""
    with crew_of(2, tmp_path, "user=a dbname=a host=/nowhere port=1") as crew:
        no_process(monkeypatch)
        crew.advance(0.0)
        assert "a worker cannot be started: " in str(crew.failure)
        assert "/nowhere/python" in str(crew.failure)
        assert crew.gone


def test_a_worker_that_cannot_be_started_is_tried_again(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The other one serves; when there are processes again there are two."""
    with serving_crew_of(2, tmp_path, database_url) as crew:
        victim, other = sorted(own_workers())
        with monkeypatch.context() as patched:
            no_process(patched)
            os.kill(victim, signal.SIGKILL)
            advance(crew, lambda: caplog.text.count("a worker cannot be started: ") == 3)
            assert own_workers() == {other}
            assert "it is tried again in 2 s" in caplog.text
        advance(crew, lambda: not crew._wants_more())
        assert len(own_workers()) == 2
        assert other in own_workers()


def test_a_reload_without_a_process_changes_nothing(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither where the new configuration would be looked at nor where its first worker would be started."""
    with serving_crew_of(2, tmp_path, database_url) as crew:
        before = own_workers()
        edition = crew.edition
        config = take_over(edition.config.text, source="a test", folder=tmp_path)
        reloading = Reloading(tmp_path / "config.yaml", config, dsn=database_url, seats=4)
        with monkeypatch.context() as patched:
            no_process(patched)
            reloading.begin(0.0)
            assert "SIGHUP: the configuration stays as it was: no process can be started" in caplog.text
            assert not reloading.under_way
            assert reloading.advance(0.0, edition) is None
            crew.replace(Edition(edition.config, 2, Listening.open([], kept=edition.listening)))
            advance(crew, lambda: not crew.replacing)
        assert "a new one could not start: no process can be started" in caplog.text
        assert crew.edition is edition
        assert own_workers() == before


def test_certificates_that_cannot_be_looked_at_refuse_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a sentence, as everything that is amiss at a start."""
    no_process(monkeypatch)
    with pytest.raises(StartRefused, match="no process can be started to look at the certificates"):
        check_certificates(ConfigText("{}", "a test", "/"))


def test_a_folder_that_is_gone_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose working directory was removed starts workers all the same."""
    place = tmp_path / "gone"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [str(place), *sys.path])
    assert _path_option() == []
    place.rmdir()
    assert _path_option() == ["-P"]


def test_one_of_before_that_does_not_come_back_is_no_obstacle(
    tmp_path: Path, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker of the former edition that dies while it starts says nothing against the next edition."""
    with serving_crew_of(2, tmp_path, database_url) as crew:
        before, former = own_workers(), crew.edition
        os.kill(min(before), signal.SIGKILL)
        advance(crew, lambda: bool(own_workers() - before))
        (starting,) = own_workers() - before
        edition = Edition(former.config, 2, former.listening)
        crew.replace(edition)
        os.kill(starting, signal.SIGKILL)
        advance(crew, lambda: not crew.replacing)
        assert crew.edition is edition
        assert caplog.text.count("a worker died: it ended by SIGKILL") == 2
        # The last of those before has stopped, and may not have ended yet.
        advance(crew, lambda: own_workers().isdisjoint({*before, starting}))


# Fewer.


def seen(crew: Crew, reached: Callable[[], bool]) -> list[int]:
    """How many processes there were at each look until something is so."""
    counts: list[int] = []

    def look() -> bool:
        counts.append(len(own_workers()))
        return reached()

    advance(crew, look)
    return counts


def test_fewer_that_cannot_serve_take_nobodys_place(
    tmp_path: Path, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Two are to be followed by one, which refuses: both are there still."""
    with serving_crew_of(2, tmp_path, database_url) as crew:
        before, listening = own_workers(), crew.edition.listening
        crew.replace(Edition(ConfigText('{"wokers": 1}', "a test", str(tmp_path)), 1, listening))
        advance(crew, lambda: not crew.replacing)
        assert "the workers stay as they are" in caplog.text
        advance(crew, lambda: len(own_workers()) == 2)
        assert own_workers() == before


def test_fewer_serve_before_any_goes(tmp_path: Path, database_url: str) -> None:
    """Two are followed by one: there are three of them before there is one, and it is another."""
    with serving_crew_of(2, tmp_path, database_url) as crew:
        before, edition = own_workers(), crew.edition
        crew.replace(Edition(edition.config, 1, edition.listening))
        counts = seen(crew, lambda: not crew.replacing and len(own_workers()) == 1)
        assert max(counts) == 3
        assert counts == sorted(counts, reverse=True)
        assert own_workers().isdisjoint(before)
