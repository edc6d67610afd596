# SPDX-License-Identifier: Apache-2.0
"""How far users have read: `service` takes them, `recent` remembers the newest, `content` shows them."""

from homeserver.receipts.recent import RecentReceipts
from homeserver.receipts.service import Receipts

__all__ = ["Receipts", "RecentReceipts"]
