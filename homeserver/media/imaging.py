# SPDX-License-Identifier: Apache-2.0
"""Pictures made smaller, with Pillow. Blocks: for threads.

Owns what of pictures is trusted: the format is what the bytes say, never what their sender says; only a few formats
are tried; one that would take too much memory is refused by its header.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final, NamedTuple

from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from homeserver.media.thumbnail_sizes import Size, cut, fitted, makes_sense

MOST_PIXELS: Final = 64_000_000
"""Of a picture as it is stored."""
MOST_DECODED: Final = 32_000_000
"""Of a picture as it is held; JPEG can be read smaller than it is."""
MOST_FRAME_PIXELS: Final = 64_000_000
"""Of all frames of an animation, which else is shown still."""
_MOST_FRAMES: Final = 500
_FORMATS: Final = ("JPEG", "PNG", "GIF", "WEBP")
_TYPES: Final = {"JPEG": "image/jpeg", "PNG": "image/png", "GIF": "image/gif", "WEBP": "image/webp"}
_QUALITY: Final = 82


class NoPicture(Exception):
    """Nothing of which a thumbnail can be made."""


class PictureTooLarge(Exception):
    """To make one would take too much memory."""


class Made(NamedTuple):
    """A thumbnail; `data` None: the picture itself is what should be sent."""

    data: bytes | None
    content_type: str


def make_thumbnail(path: Path, size: Size | None, *, animated: bool) -> Made:
    """A thumbnail of the file; with no size the picture as it is. Raises NoPicture, PictureTooLarge, OSError."""
    with path.open("rb") as file:
        try:
            with Image.open(file, formats=_FORMATS) as image:
                return _made(image, size, animated=animated)
        except (UnidentifiedImageError, SyntaxError, ValueError, EOFError, OSError) as error:
            raise NoPicture(str(error)) from error
        except Image.DecompressionBombError as error:
            raise PictureTooLarge(str(error)) from error


def _made(image: Image.Image, size: Size | None, *, animated: bool) -> Made:
    own_type = _TYPES[image.format or ""]
    if image.width * image.height > MOST_PIXELS:
        raise PictureTooLarge(f"{image.width}×{image.height}")
    moves = getattr(image, "is_animated", False)
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    width, height = (image.height, image.width) if turned else (image.width, image.height)
    if size is None or not makes_sense(size, width, height):
        if moves and not animated:
            return _still(image, Size(width, height, False))
        return Made(None, own_type)
    if animated and moves and _may_move(image):
        return _moving(image, size)
    return _still(image, size)


def _may_move(image: Image.Image) -> bool:
    frames = getattr(image, "n_frames", 1)
    return frames <= _MOST_FRAMES and frames * image.width * image.height <= MOST_FRAME_PIXELS


def _still(image: Image.Image, size: Size) -> Made:
    wanted = max(size.width, size.height) * 2
    image.draft("RGB", (wanted, wanted))
    if image.width * image.height > MOST_DECODED:
        raise PictureTooLarge(f"{image.width}×{image.height}")
    plain = ImageOps.exif_transpose(image)
    seen_through = "transparency" in plain.info or plain.mode in {"RGBA", "LA", "PA", "RGBa", "La"}
    small = _smaller(plain.convert("RGBA" if seen_through else "RGB"), size)
    out = io.BytesIO()
    if seen_through:
        small.save(out, "PNG")
        return Made(out.getvalue(), "image/png")
    small.save(out, "JPEG", quality=_QUALITY)
    return Made(out.getvalue(), "image/jpeg")


def _moving(image: Image.Image, size: Size) -> Made:
    frames, durations = [], []
    for frame in ImageSequence.Iterator(image):
        frames.append(_smaller(frame.convert("RGBA"), size))
        durations.append(int(frame.info.get("duration") or 100))
    out = io.BytesIO()
    frames[0].save(
        out,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=image.info.get("loop", 0),
        quality=_QUALITY,
    )
    return Made(out.getvalue(), "image/webp")


def _smaller(image: Image.Image, size: Size) -> Image.Image:
    if size.crop:
        box = cut(size, image.width, image.height)
        return image.resize((size.width, size.height), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    target = fitted(size, image.width, image.height)
    return image.resize(target, Image.Resampling.LANCZOS, reducing_gap=3.0)
