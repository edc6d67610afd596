# SPDX-License-Identifier: Apache-2.0
"""The one stream: positions, group commit, who is woken when it moves.

`committer` writes it, `positions` says how far this process may show it, `changes` remembers what moved lately,
`listeners` holds those who wait, `stream` ties them together and hears the other processes.
"""

from homeserver.stream.batches import RoomBatch, RoomCommit
from homeserver.stream.changes import Change
from homeserver.stream.committer import Apart, Committer
from homeserver.stream.recovery import Recovery
from homeserver.stream.stream import Stream

__all__ = ["Apart", "Change", "Committer", "Recovery", "RoomBatch", "RoomCommit", "Stream"]
