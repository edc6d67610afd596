# SPDX-License-Identifier: Apache-2.0
"""The echo account: a user of the server's own that answers calls and tells what of them arrived.

    service      which process is the account, and its long-poll
    chats        the chats of two it is in: joins, declines, leaves, says that it cannot hear encrypted calls
    calls        the calls it has: from an invite to the report, through the media process
    signalling   `m.call.*` events, read and written
    explaining   a report in sentences
    account      the account itself

Where a person's calls fail, a call to it tells which half of the way is broken.
"""
