# SPDX-License-Identifier: Apache-2.0
"""Which thumbnail serves a request. Pure. Client-server API, "Thumbnails".

Requests are served from few sizes, lest one picture be asked for in a thousand: sides go up to the next step of a
ladder, so what comes is never smaller than what was wanted, and a cut keeps the proportions that were wanted.
"""

from __future__ import annotations

from typing import Final, NamedTuple

CROP_SIDES: Final = (32, 96, 320, 640, 800)
SCALE_BOXES: Final = ((32, 32), (96, 96), (320, 240), (640, 480), (800, 600), (1600, 1200))
_LEAST_SIDE: Final = 8


class Size(NamedTuple):
    """A thumbnail to make: cut to exactly this, or fitted into it."""

    width: int
    height: int
    crop: bool


def served_size(width: int, height: int, *, crop: bool) -> Size | None:
    """The size that serves a wish; None where only the picture itself is large enough."""
    if not crop:
        return next(
            (Size(w, h, False) for w, h in SCALE_BOXES if w >= width and h >= height),
            None,
        )
    longest = max(width, height)
    side = next((step for step in CROP_SIDES if step >= longest), None)
    if side is None:
        return None
    # Proportions in sixteenths: enough for any box on a screen, and few.
    other = max(_LEAST_SIDE, side * -(-16 * min(width, height) // longest) // 16)
    return Size(side, other, True) if width >= height else Size(other, side, True)


def makes_sense(size: Size, source_width: int, source_height: int) -> bool:
    """Whether a thumbnail would be smaller than its source: nothing is ever made larger than it is."""
    if size.crop:
        return source_width > size.width and source_height > size.height
    return source_width > size.width or source_height > size.height


def fitted(size: Size, source_width: int, source_height: int) -> tuple[int, int]:
    """Width and height of a source fitted into a box, its proportions kept."""
    scale = min(size.width / source_width, size.height / source_height, 1.0)
    return max(1, round(source_width * scale)), max(1, round(source_height * scale))


def cut(size: Size, source_width: int, source_height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the middle of a source in the proportions of a size."""
    if source_width * size.height > source_height * size.width:
        width = max(1, round(source_height * size.width / size.height))
        left = (source_width - width) // 2
        return left, 0, left + width, source_height
    height = max(1, round(source_width * size.height / size.width))
    top = (source_height - height) // 2
    return 0, top, source_width, top + height
