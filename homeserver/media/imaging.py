# SPDX-License-Identifier: Apache-2.0
"""Pictures made smaller, with Pillow. Blocks: for threads.

Owns what of pictures is trusted: the format is what the bytes say, never what their sender says; only a few formats
are tried; one that would take too much memory is refused by its header.
"""

from __future__ import annotations

import io
import mmap
import re
import warnings
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from PIL import Image, ImageOps, ImageSequence

from homeserver.media.thumbnail_sizes import Size, cut, fitted, makes_sense

MOST_PIXELS: Final = 64_000_000
"""Of a picture as it is stored."""
MOST_DECODED: Final = 32_000_000
"""Of a picture as it is held; JPEG can be read smaller than it is."""
MOST_FRAME_PIXELS: Final = 64_000_000
"""Of all frames of an animation, which else is shown still."""
MOST_SCANS: Final = 100
"""Of a progressive JPEG: cameras need ten, each goes over the whole picture, and an empty one is a few bytes."""
_MOST_MARKERS: Final = 10_000
_MOST_FRAMES: Final = 500
_FORMATS: Final = ("JPEG", "PNG", "GIF", "WEBP")
_TYPES: Final = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",  # a JPEG that brings further pictures: another eye's, a preview
    "PNG": "image/png",
    "GIF": "image/gif",
    "WEBP": "image/webp",
}
_QUALITY: Final = 82
_MARKER: Final = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])", re.DOTALL)
_WINDOW: Final = 1 << 20

# Half of what Pillow refuses: some of what it allocates depends on sizes that stand in the middle of a file.
Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


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
                if image.info.get("progressive"):
                    _check_scans(file)
                return _made(image, size, animated=animated)
        except (NoPicture, PictureTooLarge):
            raise
        except (Image.DecompressionBombError, MemoryError) as error:
            raise PictureTooLarge(str(error)) from error
        except Exception as error:  # whatever a broken file does to the parsers
            raise NoPicture(str(error)) from error


def _check_scans(file: BinaryIO) -> None:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at, scans = 2, 0
        for _ in range(_MOST_MARKERS):
            # Bit by bit: a search holds up every other thread.
            while (found := _MARKER.search(data, at, at + _WINDOW)) is None and at + _WINDOW < len(data):
                at += _WINDOW - 1
            if found is None or found[1] == b"\xd9":
                return
            at = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
            scans += found[1] == b"\xda"
            if scans > MOST_SCANS:
                break
    raise PictureTooLarge("too many scans")


def _made(image: Image.Image, size: Size | None, *, animated: bool) -> Made:
    own_type = _TYPES[image.format or ""]
    pixels = image.width * image.height
    if pixels > MOST_PIXELS:
        raise PictureTooLarge(f"{image.width}×{image.height}")
    is_jpeg = own_type == "image/jpeg"
    moves = not is_jpeg and getattr(image, "is_animated", False)
    # To learn it of a PNG may take decoding it.
    turned = (is_jpeg or pixels <= MOST_DECODED) and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    width, height = (image.height, image.width) if turned else (image.width, image.height)
    if size is None or not makes_sense(size, width, height):
        if moves and not animated:
            return _still(image, Size(width, height, False))
        return Made(None, own_type)
    if animated and moves:
        moving = _moving(image, size)
        if moving is not None:
            return moving
        image.seek(0)
    return _still(image, size)


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


def _moving(image: Image.Image, size: Size) -> Made | None:
    """None where that would be too much, which shows on the way: to count the frames of a GIF is to read them all, and
    each may enlarge the picture."""
    frames: list[Image.Image] = []
    durations: list[int] = []
    left = MOST_FRAME_PIXELS
    for frame in ImageSequence.Iterator(image):
        pixels = frame.width * frame.height
        left -= pixels
        if left < 0 or pixels > MOST_DECODED or len(frames) == _MOST_FRAMES:
            return None
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
