# SPDX-License-Identifier: Apache-2.0
"""Makes everything foreign that the tests run, beforehand and side by side: `python -m tests.interop.preparation`.

Owns nothing of how that is done. A test that needs something makes it, if it is not there; where this fails it says
so in one line and leaves the account to that test.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from scripts.benchmarks.servers import Synapse
from tests.calls.turnserver import turnserver
from tests.interop.environments import js_client

PARTS: dict[str, Callable[[], object]] = {
    "Synapse": lambda: Synapse.prepare(lambda _text: None),
    "the foreign clients": js_client,
    "coturn": turnserver,
}


def _made(name: str) -> bool:
    try:
        PARTS[name]()
    except Exception as error:
        sys.stderr.write(f"{name}: not made beforehand ({type(error).__name__})\n")
        return False
    return True


if __name__ == "__main__":
    with ThreadPoolExecutor(len(PARTS)) as threads:
        sys.exit(0 if all(threads.map(_made, PARTS)) else 1)
