# SPDX-License-Identifier: Apache-2.0
"""What is found out about a new configuration before any worker is replaced:
`python -m homeserver.app.workers.preparation --control 5`, started by `parent`.

Owns the questions. A process of its own, because a release that was put in place meanwhile may know other keys and
bring migrations, which are applied here, while the workers of the release before still serve; and because the parent
stays small, so that at the first start, too, it has certificates looked at here.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
from pathlib import Path
from typing import Any

from homeserver.app.premises import bring_up_to_date, read_secrets
from homeserver.app.workers.orders import ConfigText, Gone, read_line, say
from homeserver.config import Config, ConfigError, StartRefused
from homeserver.config.loader import read_text, take_over


def main() -> int:
    """Answer one question; the exit code says only whether it was answered."""
    parser = argparse.ArgumentParser(prog="preparation", description=__doc__)
    parser.add_argument("--control", type=int, required=True)
    control = socket.socket(fileno=parser.parse_args().control)
    try:
        asked = json.loads(read_line(control))
        say(control, _answer(asked) if "path" in asked else _of_certificates(ConfigText(**asked)))
    except (Gone, OSError):
        return 1
    return 0


def _answer(asked: dict[str, Any]) -> dict[str, object]:
    """`problems`, or what workers of the new configuration are started with."""
    try:
        written = read_text(Path(asked["path"]))
        config = written.parse()
        problems = _unchangeable(config, asked)
        if problems:
            return {"problems": problems}
        read_secrets(config)
        _check_certificates(config)
        bring_up_to_date(asked["dsn"], others_serve=True)
    except ConfigError as error:
        return {"problems": str(error).splitlines()}
    except StartRefused as error:
        return {"problems": [str(error)]}
    return {
        "text": written.as_json(),
        "source": written.source,
        "folder": str(written.folder),
        "workers": config.workers,
        "listeners": [[listener.bind, listener.port] for listener in config.listeners],
    }


def _of_certificates(text: ConfigText) -> dict[str, object]:
    """`problems` of the certificates that a configuration names, none if they can be used."""
    try:
        _check_certificates(take_over(text.text, source=text.source, folder=Path(text.folder)))
    except StartRefused as error:
        return {"problems": [str(error)]}
    return {"problems": []}


def _unchangeable(config: Config, asked: dict[str, Any]) -> list[str]:
    """What cannot become otherwise while processes of both configurations serve."""
    present = {
        "server_name": config.server_name,
        "data_dir": str(config.data_dir),
        "database.url": config.database.url,
    }
    problems = [
        f"{key}: cannot change while the server runs; stop and start it"
        for key, value in present.items()
        if value != asked["fixed"][key]
    ]
    if config.workers == 1:
        problems.append("workers: 1 is a server without a parent; stop and start it")
    elif config.workers >= asked["seats"]:
        problems.append(
            f"workers: there is room for {asked['seats'] - 1} until the server is stopped and started"
        )
    return problems


def _check_certificates(config: Config) -> None:
    if any(listener.tls is not None for listener in config.listeners):
        from homeserver.web.listeners import check_certificate  # which brings much along

        for listener in config.listeners:
            check_certificate(listener)


if __name__ == "__main__":
    sys.exit(main())
