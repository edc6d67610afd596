# SPDX-License-Identifier: Apache-2.0
"""Who is typing where: never stored, told at once, over by itself."""

from homeserver.typing.service import NobodyElsewhere, Typing, TypingElsewhere, TypingNews

__all__ = ["NobodyElsewhere", "Typing", "TypingElsewhere", "TypingNews"]
