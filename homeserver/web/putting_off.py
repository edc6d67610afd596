# SPDX-License-Identifier: Apache-2.0
"""What is answered to requests that may be sent again later.

Owns body and headers of these answers; who gets them is decided elsewhere. When to come again is said twice, as clients
read either: `retry_after_ms` in the body, and the Retry-After header, rounded up.
"""

import random
from typing import Final

import orjson

from homeserver.web.replies import JSON
from storage.database import DatabaseUnavailable, LockTimeout, StatementTimeout

#: What says that the database did nothing, and may do it later. Of a transaction all is undone with the statement.
NOT_DONE: Final = (DatabaseUnavailable, StatementTimeout, LockTimeout)
_BUSY: Final = b'{"errcode":"M_LIMIT_EXCEEDED","error":"The server is busy","retry_after_ms":%d}'
_UNAVAILABLE: Final = {"errcode": "M_UNKNOWN", "error": "The server cannot do this now"}
_AWAY_MS: Final = (2000, 5000)


def retry_after(milliseconds: int) -> dict[str, str]:
    """The headers of a JSON answer that says when to come again."""
    seconds = max(1, -(-milliseconds // 1000))
    return {"Content-Type": JSON, "Cache-Control": "no-store", "Retry-After": str(seconds)}


def busy(milliseconds: int) -> tuple[bytes, dict[str, str]]:
    """Body and headers of 429: there is too much to do."""
    return _BUSY % milliseconds, retry_after(milliseconds)


def unavailable() -> tuple[bytes, dict[str, str]]:
    """Body and headers of 503: the database is away. Jittered, as all who asked meanwhile come again."""
    return orjson.dumps(_UNAVAILABLE), retry_after(random.randint(*_AWAY_MS))


def unavailable_frame() -> dict[str, object]:
    """The same where there are no headers."""
    return {**_UNAVAILABLE, "retry_after_ms": random.randint(*_AWAY_MS)}
