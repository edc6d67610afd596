# SPDX-License-Identifier: Apache-2.0
"""Pictures as cameras make them, and as nobody should."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from homeserver.media.imaging import MOST_SCANS, Made, NoPicture, PictureTooLarge, make_thumbnail
from homeserver.media.thumbnail_sizes import Size

SMALL = Size(96, 96, False)


def encoded(image: Image.Image, form: str, **more: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **more)
    return out.getvalue()


def made(directory: Path, data: bytes, *, animated: bool = False) -> Made:
    path = directory / "picture"
    path.write_bytes(data)
    return make_thumbnail(path, SMALL, animated=animated)


def shown(thumbnail: Made) -> Image.Image:
    assert thumbnail.data is not None
    return Image.open(io.BytesIO(thumbnail.data))


@pytest.mark.parametrize("animated", [False, True])
def test_a_photograph_with_a_second_one_behind_it(tmp_path: Path, animated: bool) -> None:
    first, second = Image.new("RGB", (800, 400), "red"), Image.new("RGB", (800, 400), "blue")
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    thumbnail = made(tmp_path, data, animated=animated)
    assert (thumbnail.content_type, shown(thumbnail).size) == ("image/jpeg", (96, 48))
    small = encoded(first.resize((40, 20)), "MPO", save_all=True, append_images=[second.resize((40, 20))])
    assert made(tmp_path, small) == Made(None, "image/jpeg")


def test_a_jpeg_in_scans_without_end(tmp_path: Path) -> None:
    """An empty scan is a few bytes, and goes over every pixel."""
    data = encoded(Image.new("RGB", (200, 200), "red"), "JPEG", progressive=True)
    assert shown(made(tmp_path, data)).size == (96, 96)
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    few, many = (data[:-2] + scan * count + data[-2:] for count in (10, MOST_SCANS))
    made(tmp_path, few)
    with pytest.raises(PictureTooLarge):
        made(tmp_path, many)


@pytest.mark.filterwarnings("ignore:Image size")
def test_a_gif_whose_frames_grow(tmp_path: Path) -> None:
    """The size of the first says nothing of the others."""
    first, other = (encoded(Image.new("P", (side, side)), "GIF") for side in (100, 6500))
    data = first[:-1] + other[other.index(b",\0\0\0\0") :]
    with pytest.raises(PictureTooLarge):
        made(tmp_path, data, animated=True)
    assert shown(made(tmp_path, data)).size == (96, 96)


def test_a_gif_of_more_frames_than_are_looked_at_stands_still(tmp_path: Path) -> None:
    frames = [Image.new("P", (100, 100), shade % 2) for shade in range(502)]
    for frame in frames:
        frame.putpalette([0, 0, 0, 255, 255, 255])
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=20)
    assert getattr(shown(made(tmp_path, data, animated=True)), "n_frames", 1) == 1


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP"])
def test_broken_anywhere(tmp_path: Path, form: str) -> None:
    """It is a picture or none; nothing else is said."""
    whole = encoded(Image.radial_gradient("L").convert("RGB"), form)
    for at in range(0, len(whole), max(1, len(whole) // 40)):
        for broken in (whole[:at], whole[:at] + b"\xff\x00\xff\xd9" + whole[at + 4 :]):
            with contextlib.suppress(NoPicture, PictureTooLarge):
                made(tmp_path, broken)


def _foreign() -> dict[str, bytes]:
    """Pictures and documents of formats that are read here by nobody."""
    image = Image.new("RGB", (400, 400), "red")
    forms = ("BMP", "DDS", "EPS", "ICO", "JPEG2000", "PCX", "PDF", "PPM", "SGI", "TGA", "TIFF")
    return {
        **{form: encoded(image, form) for form in forms},
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "PostScript": b"%!PS-Adobe-3.0\n%%BoundingBox: 0 0 400 400\nshowpage\n",
    }


def test_advisory_22_no_decoder_but_those_of_four_formats_sees_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2024-53863: a file says by its bytes what it is; what its sender calls it nobody asks here. The decoders that
    begin other programs, or are seldom looked at, are not even shown it."""
    pictures = _foreign()
    Image.init()
    tried: list[str] = []
    for form in Image.OPEN.keys() - {"JPEG", "PNG", "GIF", "WEBP"}:

        def accept(_prefix: bytes, form: str = form) -> bool:
            tried.append(form)
            return False

        monkeypatch.setitem(Image.OPEN, form, (Image.OPEN[form][0], accept))
    for form, data in pictures.items():
        with pytest.raises(NoPicture):
            made(tmp_path, data)
        assert not tried, form
