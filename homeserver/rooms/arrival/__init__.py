# SPDX-License-Identifier: Apache-2.0
"""Becoming part of a room of other servers, wholly or as far as its doorway.

`arriving` makes a room live from the answer to a join, `judging` and `outliers` check and store the events that come
with it, `standing` says what changes between the room as it was known and as it is, `completing` (with `overlay`) makes
a room known in part known wholly, `out_of_band` keeps invites, knocks and their end for rooms this server is not in.
Asking other servers is `federation.membership`'s.
"""

from homeserver.rooms.arrival.arriving import ArrivalRefused, Partial, RoomArrival
from homeserver.rooms.arrival.completing import IncompleteState, RoomCompletion
from homeserver.rooms.arrival.out_of_band import OutOfBand

__all__ = ["ArrivalRefused", "IncompleteState", "OutOfBand", "Partial", "RoomArrival", "RoomCompletion"]
