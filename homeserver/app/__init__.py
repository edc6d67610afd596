# SPDX-License-Identifier: Apache-2.0
"""The composition root: builds everything in order, in plain sight, and runs it.

`core` is what everything stands on (database, stream, rooms), `services` what the server decides and does, `endpoints`
the routes, `process` the life of a server process from start to clean stop.
"""

from homeserver.app.process import run_server

__all__ = ["run_server"]
