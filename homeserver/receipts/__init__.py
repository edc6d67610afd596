# SPDX-License-Identifier: Apache-2.0
"""How far users have read: `service` takes receipts, `remote` those of other servers' users, `recent` remembers the
newest, `content` shows them.
"""

from homeserver.receipts.recent import RecentReceipts
from homeserver.receipts.remote import RemoteReceipt, RemoteReceipts
from homeserver.receipts.service import NobodyElsewhere, Receipts, ReceiptsElsewhere

__all__ = [
    "NobodyElsewhere",
    "Receipts",
    "ReceiptsElsewhere",
    "RecentReceipts",
    "RemoteReceipt",
    "RemoteReceipts",
]
