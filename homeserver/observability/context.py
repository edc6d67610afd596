# SPDX-License-Identifier: Apache-2.0
"""On whose behalf code runs: the request id that log lines carry.

Owns one context variable. `Deferred.fromCoroutine` runs a coroutine in a copy of the context it is started in, and each
step of it in that copy, so what a request sets is seen by all it awaits and by nothing else. A callback added to a
Deferred that another request fires runs in that request's context: code shared between requests (a batch, a cache's
filler) names what it works for itself.
"""

from contextvars import ContextVar

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request being answered, or None."""
