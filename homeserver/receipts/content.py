# SPDX-License-Identifier: Apache-2.0
"""The content of `m.receipt` (client-server API, "Receipts"). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from storage.receipts import Receipt

READ = "m.read"
READ_PRIVATE = "m.read.private"


def receipt_content(receipts: Iterable[Receipt]) -> dict[str, Any]:
    """`{event id: {kind: {user id: {"ts": …, "thread_id": …}}}}`, empty for no receipts.

    There is one place per event, kind and user. Where a user's unthreaded and threaded receipts stand at one event,
    the unthreaded one is shown, which reaches as far as the others together; receipts of two threads cannot meet
    at one event but at a thread's root, which is its own thread and the main timeline's: there the newer is shown.
    """
    content: dict[str, Any] = {}
    for receipt in receipts:
        kinds = content.setdefault(receipt.event_id, {})
        users = kinds.setdefault(READ_PRIVATE if receipt.private else READ, {})
        shown = users.get(receipt.user_id)
        if shown is not None and "thread_id" not in shown and receipt.thread:
            continue
        entry: dict[str, Any] = {"ts": receipt.ts}
        if receipt.thread:
            entry["thread_id"] = receipt.thread
        users[receipt.user_id] = entry
    return content
