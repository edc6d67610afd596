# SPDX-License-Identifier: Apache-2.0
"""Whether a worker's reactor still turns: the worker counts its turns in shared memory, its parent looks at the count.

Owns the arithmetic. What is done about a worker that hangs is `crew`'s.
"""

from __future__ import annotations

from typing import Final

BEAT: Final = 1.0
"""Seconds between two turns that a worker counts."""
PATIENCE: Final = 60.0
"""Seconds without a turn until a worker hangs. Nothing that it does takes a tenth of that, also on a busy machine."""
_LOOK: Final = 2 * BEAT


class Pulse:
    """Of one worker. Before it has counted a turn nothing is expected of it."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._beats = 0
        self._silent = 0.0
        self._looked_at: float | None = None

    def stopped(self, beats: int, now: float) -> bool:
        """Whether the count has not moved for too long. To be asked about once a second.

        Time in which nobody looked does not count beyond two seconds: then the parent did not run either, so that the
        machine slept or had no processor to give, and the worker cannot be blamed.
        """
        since = 0.0 if self._looked_at is None else min(now - self._looked_at, _LOOK)
        self._looked_at = now
        self._silent = self._silent + since if beats == self._beats else 0.0
        self._beats = beats
        return beats > 0 and self._silent >= self._patience
