# SPDX-License-Identifier: Apache-2.0
"""Structured logs: one line per event, `key=value` for people or a JSON object for machines.

Owns the form of a line and what the standard library's and Twisted's loggers are made to write. Code logs through
`logging.getLogger(__name__)`, adding fields with `extra={"fields": {"room": room_id}}`; the request's id is added by
itself. Never logged: tokens, passwords, bodies, anything else a user would not say aloud.

    2026-03-09T12:00:00.123Z warning homeserver.federation queue is long request=a1b2c3-7 destination=example.org
    {"time":"2026-03-09T12:00:00.123Z","level":"warning","logger":"…","message":"…","request":"a1b2c3-7"}
"""

import logging
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal

import orjson

from homeserver.observability.context import request_id
from homeserver.observability.log_output import LogOutput

Format = Literal["text", "json"]
_FLUSH_FROM: Final = logging.WARNING
_NEEDS_QUOTES: Final = frozenset(' "=\n\r\t')


class LineHandler(logging.Handler):
    """Writes records of the standard library's loggers as lines."""

    def __init__(self, output: LogOutput, form: Format, worker: int | None = None) -> None:
        """`worker`: the number of this process among several, told with each line."""
        super().__init__()
        self._output = output
        self._worker = worker
        self._render = render_json if form == "json" else render_text

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._output.write(self._render(self._output.timestamp(), self._fields(record)))
            if record.levelno >= _FLUSH_FROM:
                self._output.flush()
        except Exception:  # a record that cannot be rendered must not break what logged it
            self.handleError(record)

    def _fields(self, record: logging.LogRecord) -> dict[str, object]:
        fields: dict[str, object] = {
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._worker is not None:
            fields["worker"] = self._worker
        request = request_id.get()
        if request is not None:
            fields["request"] = request
        extra = getattr(record, "fields", None)
        if isinstance(extra, Mapping):
            fields.update(extra)
        if record.exc_info and record.exc_info[0] is not None:
            fields["traceback"] = logging.Formatter().formatException(record.exc_info)
        return fields


def render_text(time: str, fields: Mapping[str, object]) -> str:
    """Time, level, logger and message bare, the rest as `key=value`; a traceback below, indented."""
    rest = [
        f"{name}={_quoted(value)}"
        for name, value in fields.items()
        if name not in {"level", "logger", "message", "traceback"}
    ]
    message = str(fields["message"]).replace("\n", "\\n").replace("\r", "\\r")
    line = " ".join([time, str(fields["level"]), str(fields["logger"]), message, *rest])
    traceback = fields.get("traceback")
    return line if traceback is None else line + "\n  " + str(traceback).replace("\n", "\n  ")


def render_json(time: str, fields: Mapping[str, object]) -> str:
    """One object per line; values JSON does not know are written as text."""
    return orjson.dumps({"time": time, **fields}, default=str).decode("utf-8", "replace")


def _quoted(value: object) -> str:
    """As it is, or as a JSON string where a space, quote or line break would blur where it ends."""
    text = str(value)
    if text and _NEEDS_QUOTES.isdisjoint(text) and text.isprintable():
        return text
    return orjson.dumps(text.encode("utf-8", "replace").decode("utf-8")).decode("utf-8")


def set_up(*, level: str, form: Format, stream: Any = None, worker: int | None = None) -> LogOutput:
    """Send all logs of this process to standard error (or `stream`). Called once, when it starts.

    `worker`: its number among several.
    """
    output = set_up_alone(level=level, form=form, stream=stream, worker=worker)
    root = logging.getLogger()
    from twisted.logger import STDLibLogObserver, globalLogBeginner

    # Twisted's own chatter (a factory started, a client timed out) is of no interest below a warning.
    logging.getLogger("twisted").setLevel(max(logging.WARNING, root.level))
    observer: Any = STDLibLogObserver(name="twisted")
    globalLogBeginner.beginLoggingTo([observer], discardBuffer=True, redirectStandardIO=False)
    return output


def set_up_alone(*, level: str, form: Format, stream: Any = None, worker: int | None = None) -> LogOutput:
    """As `set_up`, for a process without Twisted, which it does not import."""
    output = LogOutput(sys.stderr if stream is None else stream)
    root = logging.getLogger()
    root.handlers[:] = [LineHandler(output, form, worker)]
    root.setLevel(level.upper())
    return output
