# SPDX-License-Identifier: Apache-2.0
"""The parent of several workers: what there is once per server, the signals, and the loop that goes on in between.

Owns the order of the start and of the stop, and what is printed. It serves nothing itself and stays small: neither a
reactor nor any service is imported here.

- SIGTERM, Ctrl-C: all workers wind down, then the database ends.
- SIGHUP: the configuration is read again. If it can be used, each worker is followed by a new one, that serves before
  the old one lets go of the sockets; these are the parent's and never closed in between.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import time
from pathlib import Path
from types import FrameType
from typing import Final

from homeserver import __version__
from homeserver.app.open_files import allow_open_files
from homeserver.app.premises import Premises
from homeserver.app.service_manager import ServiceManager
from homeserver.app.stop_signals import StopRequested
from homeserver.app.welcome import FirstAccountCommand, print_ready, print_welcome
from homeserver.app.workers.crew import Crew
from homeserver.app.workers.listening import Listening
from homeserver.app.workers.members import Edition
from homeserver.app.workers.orders import ConfigText
from homeserver.app.workers.reloading import Reloading, check_certificates
from homeserver.config import Config, StartRefused
from homeserver.config.loader import Written
from homeserver.observability.logging import set_up_alone
from homeserver.siblings import MOST as MOST_SIBLINGS
from homeserver.web.sockets import address_of

logger = logging.getLogger(__name__)

WATCH: Final = 1.0
"""Seconds between looks at the embedded database."""


def run_workers(
    config: Config, written: Written, path: Path, first_account_command: FirstAccountCommand
) -> None:
    """Run until SIGTERM or SIGINT. `written` is what `config` was read from, `path` where that lies.

    Raises StartRefused, saying why, if the server cannot start or go on.
    """
    output = set_up_alone(level=config.logging.level, form=config.logging.format)
    try:
        _Parent(config, written, path, first_account_command).run()
    except StopRequested:
        logger.info("stopped before the start was complete")
    finally:
        output.close()


class _Signals:
    """What was asked for by signals, and a socket by which a sleeper learns of it."""

    def __init__(self) -> None:
        self.stop = False
        self.reload = False
        self.woken, self._wake = socket.socketpair()
        for end in (self.woken, self._wake):
            end.setblocking(False)

    def install(self) -> None:
        """Take the signals. One to stop that is ignored stays so, as for a job of a shell in the background."""
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._received)
        signal.signal(signal.SIGHUP, self._received)
        signal.signal(signal.SIGCHLD, self._received)

    def check(self) -> None:
        """Raise StopRequested if the server is to stop."""
        if self.stop:
            raise StopRequested

    def drain(self) -> None:
        """Forget what has woken a sleeper."""
        try:
            while self.woken.recv(4096):
                pass
        except BlockingIOError:
            return

    def _received(self, number: int, _frame: FrameType | None) -> None:
        if number in {signal.SIGTERM, signal.SIGINT}:
            self.stop = True
        elif number == signal.SIGHUP:
            self.reload = True


class _Parent:
    """One start and stop."""

    def __init__(
        self, config: Config, written: Written, path: Path, first_account_command: FirstAccountCommand
    ) -> None:
        self._config = config
        self._text = ConfigText(written.as_json(), written.source, str(written.folder))
        self._path = path
        self._first_account_command = first_account_command
        self._signals = _Signals()
        self._manager = ServiceManager.take_from(os.environ)
        self._premises = Premises(config, self._signals.check)
        # While workers are replaced there are more of them than are wanted.
        self._seats = min(MOST_SIBLINGS, max(8, 2 * config.workers + 2))
        if config.workers >= self._seats:
            raise StartRefused(f"workers: {config.workers} are too many; {self._seats - 1} is the most")
        self._opened = False
        self._stopping = False
        self._failure: StartRefused | None = None
        self._watch_at = 0.0

    def run(self) -> None:
        """Blocks for as long as the server runs."""
        config = self._config
        self._signals.install()
        allow_open_files(config.limits.open_files)
        listening = Listening.open([(each.bind, each.port) for each in config.listeners])
        try:
            if any(listener.tls is not None for listener in config.listeners):
                check_certificates(self._text)  # before anything is made
            _secrets, dsn = self._premises.open()
            crew = Crew(Edition(self._text, config.workers, listening), dsn=dsn, seats=self._seats)
            reloading = Reloading(self._path, config, dsn=dsn, seats=self._seats)
            try:
                self._loop(crew, reloading)
            finally:
                reloading.give_up()
                crew.kill()  # nobody is left, but for an error of our own
                crew.close()  # as after a stop that never began
        finally:
            listening.close()
            self._premises.close()
        logger.info("stopped")
        if self._failure is not None:
            raise self._failure

    def _loop(self, crew: Crew, reloading: Reloading) -> None:
        while not (self._stopping and crew.gone):
            now = time.monotonic()
            if self._opened:
                self._manager.alive()
            if self._signals.stop:
                self._stop(crew, reloading, now)
            crew.advance(now)
            if crew.failure is not None:
                self._fail(crew, reloading, crew.failure)
            elif not self._stopping:
                self._look_around(crew, reloading, now)
            self._sleep(crew, reloading, now)

    def _look_around(self, crew: Crew, reloading: Reloading, now: float) -> None:
        """What is due while the server is not stopping."""
        if crew.opened and not self._opened:
            self._opened = True
            self._open(crew)
        if self._opened and self._signals.reload and not (crew.replacing or reloading.under_way):
            self._signals.reload = False
            reloading.begin(now)
        edition = reloading.advance(now, crew.edition)
        if edition is not None:
            crew.replace(edition)
        if now >= self._watch_at:
            self._watch_at = now + WATCH
            try:
                self._premises.revive()
            except StartRefused as error:
                self._fail(crew, reloading, error)

    def _sleep(self, crew: Crew, reloading: Reloading, now: float) -> None:
        """Until a signal, a child or the clock wants something."""
        if self._stopping and crew.gone:
            return
        with selectors.PollSelector() as selector:  # which takes no descriptor, of which there may be none
            selector.register(self._signals.woken, selectors.EVENT_READ)
            for control in (*crew.controls(), *reloading.controls()):
                selector.register(control, selectors.EVENT_READ)
            selector.select(max(0.0, min(crew.wake_at(now) - now, WATCH)))
        self._signals.drain()

    def _open(self, crew: Crew) -> None:
        """All workers serve."""
        listening = crew.edition.listening
        ports = [opened.getsockname()[1] for opened in listening.sockets]
        print_welcome(
            self._premises.made,
            nobody_yet=crew.welcome.nobody_yet,
            command=self._first_account_command(list(zip(self._config.listeners, ports, strict=True))),
            token=crew.welcome.token,
        )
        print_ready(self._config.server_name, [address_of(opened) for opened in listening.sockets])
        self._manager.ready()
        fields = {"version": __version__, "pid": os.getpid(), "workers": crew.edition.workers}
        logger.info("serving", extra={"fields": fields})

    def _stop(self, crew: Crew, reloading: Reloading, now: float) -> None:
        if not self._stopping:
            self._stopping = True
            self._manager.stopping()
            reloading.give_up()
            crew.stop(now)
            # Each worker closes its own as it stops to accept. Who comes then is refused at once, and can go elsewhere,
            # rather than be connected to a socket that nobody accepts on any more.
            crew.close()

    def _fail(self, crew: Crew, reloading: Reloading, failure: StartRefused) -> None:
        self._failure = self._failure or failure
        self._stop(crew, reloading, time.monotonic())
