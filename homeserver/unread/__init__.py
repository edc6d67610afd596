# SPDX-License-Identifier: Apache-2.0
"""How much of their rooms users have not read (client-server API, "Receiving notifications").

`service` answers, `ledger` is what is kept in memory of one user's room, `judging` asks the push rules of events,
`threads` finds the thread of each. Nothing is written: what is unread follows from events, receipts and rules.
"""

from homeserver.unread.counts import Counts, UnreadCounts
from homeserver.unread.service import Unread

__all__ = ["Counts", "Unread", "UnreadCounts"]
