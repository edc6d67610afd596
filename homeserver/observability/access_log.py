# SPDX-License-Identifier: Apache-2.0
"""A line per request: id, method, route, status, milliseconds, user.

Owns their form. The route is its template, so that room ids, tokens in queries and other people's names stay out of the
log. Written past the standard library's logging, whose record per line would cost a fifth of a small request.
"""

from homeserver.observability.log_output import LogOutput
from homeserver.observability.logging import Format, render_json


class AccessLog:
    """The access lines of this process; `output` None: none are written. `worker`: its number among several."""

    def __init__(self, output: LogOutput | None, form: Format = "text", *, worker: int | None = None) -> None:
        self._output = output
        self._worker = {} if worker is None else {"worker": worker}
        self._end = "" if worker is None else f" worker={worker}"
        self._json = form == "json"

    def write(
        self, *, request: str, method: str, route: str, status: int, seconds: float, user: str | None
    ) -> None:
        """A request that was answered, or abandoned by its client (status 499)."""
        output = self._output
        if output is None:
            return
        if self._json:
            fields = {
                "level": "info",
                "logger": "access",
                "request": request,
                "method": method,
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 1),
                "user": user,
                **self._worker,
            }
            output.write(render_json(output.timestamp(), fields))
            return
        tenths = round(seconds * 10000)
        # User ids of old rooms may hold any character but are never users of ours; a method is a token.
        output.write(
            f"{output.timestamp()} info access request={request} method={method} route={route}"
            f" status={status} ms={tenths // 10}.{tenths % 10} user={user or '-'}{self._end}"
        )
