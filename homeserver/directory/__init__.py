# SPDX-License-Identifier: Apache-2.0
"""Finding people: `search` and the `index` it reads, `words` of names, and the `mutual_rooms` one has with somebody."""

from homeserver.directory.index import DirectoryIndex
from homeserver.directory.mutual_rooms import MutualRooms
from homeserver.directory.search import UserSearch

__all__ = ["DirectoryIndex", "MutualRooms", "UserSearch"]
