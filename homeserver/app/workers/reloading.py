# SPDX-License-Identifier: Apache-2.0
"""From SIGHUP to an edition: a `preparation` is asked, and what it found becomes sockets and a configuration's text.

Owns one such question at a time, and the one that is asked before the first start.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from homeserver.app.workers.listening import Listening
from homeserver.app.workers.members import Child, Edition
from homeserver.app.workers.orders import ConfigText
from homeserver.config import Config, StartRefused

logger = logging.getLogger(__name__)

LONGEST: Final = 3600.0
"""Seconds that it gets, migrations included."""


class Reloading:
    """Of one server. `begin`, then `advance` until that gives an edition or `under_way` is over."""

    def __init__(self, path: Path, config: Config, *, dsn: str, seats: int) -> None:
        """`config` is that of the start, of which some keys stay."""
        self._question: Mapping[str, object] = {
            "path": str(path.absolute()),
            "dsn": dsn,
            "seats": seats,
            "fixed": {
                "server_name": config.server_name,
                "data_dir": str(config.data_dir),
                "database.url": config.database.url,
            },
        }
        self._child: Child | None = None
        self._deadline = 0.0

    @property
    def under_way(self) -> bool:
        """Whether an answer is waited for."""
        return self._child is not None

    def controls(self) -> list[socket.socket]:
        """Connections on which it may come."""
        return [] if self._child is None or self._child.finished else [self._child.control]

    def begin(self, now: float) -> None:
        """Ask."""
        logger.info("SIGHUP: reading the configuration again")
        first = json.dumps(self._question).encode() + b"\n"
        try:
            self._child = Child("homeserver.app.workers.preparation", [], [], first)
        except OSError as error:
            _stays(f"no process can be started to look at it: {error}")
        self._deadline = now + LONGEST

    def advance(self, now: float, present: Edition) -> Edition | None:
        """The new edition, once there is an answer and it can be used."""
        child = self._child
        if child is None:
            return None
        answers = child.heard()
        if now >= self._deadline:
            child.process.kill()
        if not answers and not child.finished:
            return None
        child.process.wait()
        child.close()
        self._child = None
        if not answers:
            _stays("the look at the configuration ended early; the log above says why")
            return None
        return self._edition(answers[0], present)

    def give_up(self) -> None:
        """End what is under way."""
        if self._child is not None:
            self._child.process.kill()
            self._child.process.wait()
            self._child.close()
            self._child = None

    def _edition(self, answer: Mapping[str, Any], present: Edition) -> Edition | None:
        if "problems" in answer:
            _stays(*answer["problems"])
            return None
        addresses = [(bind, port) for bind, port in answer["listeners"]]
        try:
            listening = Listening.open(addresses, kept=present.listening)
        except StartRefused as error:
            _stays(str(error))
            return None
        text = ConfigText(answer["text"], answer["source"], answer["folder"])
        return Edition(text, answer["workers"], listening)


def check_certificates(text: ConfigText) -> None:
    """Raise StartRefused if a certificate that a configuration names cannot be used. Blocks while a Python starts."""
    first = json.dumps(asdict(text)).encode() + b"\n"
    try:
        child = Child("homeserver.app.workers.preparation", [], [], first)
    except OSError as error:
        raise StartRefused(f"no process can be started to look at the certificates: {error}") from error
    try:
        child.process.wait()
        for answer in child.heard():
            for problem in answer["problems"]:
                raise StartRefused(problem)
            return
    finally:
        child.close()
    raise StartRefused("the look at the certificates ended early; the log above says why")


def _stays(*problems: str) -> None:
    for problem in problems:
        logger.error("SIGHUP: the configuration stays as it was: %s", problem)
