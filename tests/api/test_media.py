# SPDX-License-Identifier: Apache-2.0
"""The content repository over HTTP: uploads, downloads, thumbnails. Client-server API, "Content repository"."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest
from PIL import Image

from tests.api.wire import PATIENCE, Line, check_refusal, lines, request
from tests.api.world import Person
from tests.serving import Answer, ServerProcess
from tests.waiting import wait_until

UPLOAD = "/_matrix/media/v3/upload"
V1 = "/_matrix/client/v1/media"
PNG = "image/png"


def picture(width: int, height: int, form: str = "PNG", mode: str = "RGB", **more: Any) -> bytes:
    """A picture of two colours, left and right."""
    image = Image.new(mode, (width, height), (255, 0, 0) if mode == "RGB" else (255, 0, 0, 128))
    image.paste((0, 0, 255) if mode == "RGB" else (0, 0, 255, 128), (width // 2, 0, width, height))
    out = io.BytesIO()
    image.save(out, form, **more)
    return out.getvalue()


def moving(width: int, height: int) -> bytes:
    frames = [Image.new("RGB", (width, height), (shade, 0, 0)) for shade in (0, 120, 240)]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=50, loop=0)
    return out.getvalue()


@pytest.fixture(scope="module")
def alice(server: ServerProcess) -> Person:
    return Person.arrives(server)


@pytest.fixture(scope="module")
def bob(server: ServerProcess) -> Person:
    return Person.arrives(server)


def uploaded(person: Person, data: bytes, content_type: str = PNG, path: str = UPLOAD) -> str:
    """The part of a content URI behind `mxc://`."""
    answer = person.call("POST", path, data, headers={"Content-Type": content_type})
    assert answer.status == 200, answer
    uri: str = answer.body["content_uri"]
    assert uri.startswith("mxc://localhost/")
    return uri.removeprefix("mxc://")


def download(person: Person, name: str, **headers: str) -> Answer:
    return person.call("GET", f"{V1}/download/{name}", headers=headers)


@pytest.mark.parametrize("size", [0, 1, 1000, 3_000_000])
def test_what_is_uploaded_comes_back(alice: Person, bob: Person, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    name = uploaded(alice, data, "application/x-thing")
    answer = download(bob, name)
    assert (answer.status, answer.raw) == (200, data)
    assert answer.headers["content-type"] == "application/x-thing"
    assert answer.headers["content-disposition"] == "attachment"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("given", "content_type", "shown"),
    [
        ("cat.png", PNG, 'inline; filename="cat.png"'),
        ("page.html", "text/html", 'attachment; filename="page.html"'),
        ("größe.txt", "text/plain", "inline; filename*=utf-8''gr%C3%B6%C3%9Fe.txt"),
        ('a"b.png', PNG, "inline; filename*=utf-8''a%22b.png"),
        ("a\r\nSet-Cookie: b", PNG, 'inline; filename="aSet-Cookie: b"'),
    ],
)
def test_names(alice: Person, given: str, content_type: str, shown: str) -> None:
    """Of the upload; who downloads may choose another."""
    answer = alice.call(
        "POST", UPLOAD, b"x", query={"filename": given}, headers={"Content-Type": content_type}
    )
    name = answer.body["content_uri"].removeprefix("mxc://")
    assert download(alice, name).headers["content-disposition"] == shown
    other = alice.call("GET", f"{V1}/download/{name}/other.bin")
    assert other.headers["content-disposition"].endswith('filename="other.bin"')


def test_a_type_that_is_none_is_not_sent_on(alice: Person) -> None:
    assert (
        download(alice, uploaded(alice, b"x", "<script>")).headers["content-type"]
        == "application/octet-stream"
    )


@pytest.mark.parametrize("prefix", ["v3", "r0", "v1"])
def test_old_paths_take_uploads_and_give_nothing(alice: Person, prefix: str) -> None:
    """Downloads without a token are frozen."""
    name = uploaded(alice, b"old", path=f"/_matrix/media/{prefix}/upload")
    assert download(alice, name).raw == b"old"
    check_refusal(alice.call("GET", f"/_matrix/media/{prefix}/download/{name}"), 404, "M_NOT_FOUND")
    check_refusal(
        alice.call("GET", f"/_matrix/media/{prefix}/thumbnail/{name}?width=1&height=1"), 404, "M_NOT_FOUND"
    )


def test_how_large(alice: Person) -> None:
    most = alice.ok("GET", f"{V1}/config")["m.upload.size"]
    assert alice.ok("GET", "/_matrix/media/v3/config") == {"m.upload.size": most}
    assert most == 100 * 2**20


def test_advisory_21_without_a_token_nothing(alice: Person, server: ServerProcess) -> None:
    """And a large upload is refused before it is read."""
    name = uploaded(alice, b"mine")
    for method, path in (("GET", f"{V1}/download/{name}"), ("POST", UPLOAD), ("GET", f"{V1}/config")):
        answer = server.call(method, path, b"" if method == "POST" else None)
        check_refusal(answer, 401, "M_MISSING_TOKEN")
    for token, errcode in (
        ("", "M_MISSING_TOKEN"),
        ("Authorization: Bearer nobody\r\n", "M_UNKNOWN_TOKEN"),
    ):
        with lines(server.port, 1) as (line,):
            line.send(request("POST", UPLOAD, extra=f"{token}Content-Length: 90000000\r\n"))
            check_refusal(line.answer(), 401, errcode)


def test_too_large(alice: Person, server: ServerProcess) -> None:
    with lines(server.port, 1) as (line,):
        length = f"Content-Length: {100 * 2**20 + 1}\r\n"
        line.send(request("POST", UPLOAD, token=alice.token, extra=length))
        check_refusal(line.answer(), 413, "M_TOO_LARGE")


def test_an_upload_that_breaks_off_leaves_nothing(alice: Person, server: ServerProcess) -> None:
    incoming = server.directory / "data" / "media" / "incoming"
    line = Line(server.port)
    length = "Content-Length: 1000000\r\n"
    line.send(request("POST", UPLOAD, token=alice.token, extra=length) + bytes(500_000))
    wait_until(lambda: any(incoming.iterdir()), "half of it has come")
    line.close()
    wait_until(lambda: not any(incoming.iterdir()), "what had come is removed")


@pytest.mark.parametrize(
    ("wanted", "status", "part", "shown"),
    [
        ("bytes=0-3", 206, slice(0, 4), "bytes 0-3/1000"),
        ("bytes=990-", 206, slice(990, 1000), "bytes 990-999/1000"),
        ("bytes=-10", 206, slice(990, 1000), "bytes 990-999/1000"),
        ("bytes=5-5000", 206, slice(5, 1000), "bytes 5-999/1000"),
        ("bytes=1000-", 416, slice(0, 0), "bytes */1000"),
        ("bytes=1-2,4-5", 200, slice(0, 1000), None),
        ("lines=1-2", 200, slice(0, 1000), None),
    ],
)
def test_ranges(alice: Person, wanted: str, status: int, part: slice, shown: str | None) -> None:
    data = bytes(i % 251 for i in range(1000))
    answer = download(alice, uploaded(alice, data), Range=wanted)
    assert (answer.status, answer.raw) == (status, data[part])
    assert answer.headers.get("content-range") == shown


def test_what_is_known_is_not_sent_again(alice: Person) -> None:
    name = uploaded(alice, b"the same")
    first = download(alice, name)
    again = download(alice, name, **{"If-None-Match": first.headers["etag"]})
    assert (again.status, again.raw) == (304, b"")
    assert "immutable" in first.headers["cache-control"]
    head = alice.call("HEAD", f"{V1}/download/{name}")
    assert (head.status, head.raw, head.headers["content-length"]) == (200, b"", "8")


@pytest.mark.parametrize("name", ["localhost/..%2F..%2Fsecret", "localhost/a.b", "local%2Fhost/a", "a%20b/c"])
def test_advisory_9_names_that_are_no_media(alice: Person, name: str) -> None:
    """No id ever becomes a path."""
    check_refusal(download(alice, name), 400, "M_INVALID_PARAM")


def test_unknown_media(alice: Person) -> None:
    check_refusal(download(alice, "localhost/nothing"), 404, "M_NOT_FOUND")


class TestLater:
    """Ids that are reserved, and filled later."""

    def test_is_waited_for(self, alice: Person, bob: Person) -> None:
        made = alice.ok("POST", "/_matrix/media/v1/create", {})
        name = made["content_uri"].removeprefix("mxc://")
        assert made["unused_expires_at"] > 0
        answer = download(bob, name + "?timeout_ms=0")
        assert (answer.status, answer.body["errcode"]) == (504, "M_NOT_YET_UPLOADED")
        answers: list[Answer] = []
        reader = threading.Thread(target=lambda: answers.append(download(bob, name + "?timeout_ms=60000")))
        reader.start()
        assert alice.ok("PUT", f"{UPLOAD}/{name}", b"at last", headers={"Content-Type": PNG}) == {}
        reader.join(PATIENCE)
        assert answers[0].raw == b"at last"

    def test_only_once_and_by_whose_it_is(self, alice: Person, bob: Person) -> None:
        name = alice.ok("POST", "/_matrix/media/v1/create", {})["content_uri"].removeprefix("mxc://")
        check_refusal(bob.call("PUT", f"{UPLOAD}/{name}", b"mine"), 403, "M_FORBIDDEN")
        alice.ok("PUT", f"{UPLOAD}/{name}", b"first")
        check_refusal(alice.call("PUT", f"{UPLOAD}/{name}", b"second"), 409, "M_CANNOT_OVERWRITE_MEDIA")
        assert download(bob, name).raw == b"first"
        check_refusal(alice.call("PUT", f"{UPLOAD}/localhost/nothing", b"x"), 404, "M_NOT_FOUND")
        check_refusal(alice.call("PUT", f"{UPLOAD}/elsewhere/nothing", b"x"), 404, "M_NOT_FOUND")

    def test_not_too_many(self, server: ServerProcess) -> None:
        eager = Person.arrives(server)
        for _ in range(50):
            eager.ok("POST", "/_matrix/media/v1/create", {})
        check_refusal(eager.call("POST", "/_matrix/media/v1/create", {}), 429, "M_LIMIT_EXCEEDED")


def thumbnail(person: Person, name: str, **query: object) -> Answer:
    return person.call("GET", f"{V1}/thumbnail/{name}", query={k: str(v) for k, v in query.items()})


def shown(answer: Answer) -> Image.Image:
    assert answer.status == 200, answer
    assert answer.headers["content-disposition"].startswith("inline; filename=")
    return Image.open(io.BytesIO(answer.raw))


class TestThumbnails:
    """Pictures made smaller."""

    @pytest.mark.parametrize(
        ("width", "height", "method", "size"),
        [
            (32, 32, "crop", (32, 32)),
            (50, 50, "crop", (96, 96)),
            (200, 100, "crop", (320, 160)),
            (300, 200, "scale", (320, 160)),
            (640, 480, "scale", (640, 320)),
            (640, 480, None, (640, 320)),
        ],
    )
    def test_sizes(
        self, alice: Person, width: int, height: int, method: str | None, size: tuple[int, int]
    ) -> None:
        """Never smaller than what was wanted, but for the proportions."""
        name = uploaded(alice, picture(1000, 500))
        query: dict[str, object] = {"width": width, "height": height}
        answer = thumbnail(alice, name, **(query if method is None else {**query, "method": method}))
        image = shown(answer)
        assert (image.size, answer.headers["content-type"]) == (size, "image/jpeg")
        left, right = image.getpixel((2, 5)), image.getpixel((size[0] - 3, 5))
        assert isinstance(left, tuple)
        assert isinstance(right, tuple)
        assert left[0] > right[0] + 150
        assert right[2] > left[2] + 150
        assert thumbnail(alice, name, **{**query, "method": method or "scale"}).raw == answer.raw

    def test_small_pictures_stay_as_they_are(self, alice: Person) -> None:
        data = picture(20, 20)
        assert thumbnail(alice, uploaded(alice, data), width=320, height=240).raw == data

    def test_what_is_seen_through_stays_so(self, alice: Person) -> None:
        image = shown(thumbnail(alice, uploaded(alice, picture(400, 400, mode="RGBA")), width=32, height=32))
        assert (image.format, image.mode) == ("PNG", "RGBA")

    def test_turned_pictures_are_turned(self, alice: Person) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        data = picture(800, 400, "JPEG", exif=exif)
        image = shown(thumbnail(alice, uploaded(alice, data, "image/jpeg"), width=320, height=240))
        assert image.size == (120, 240)

    def test_only_who_asks_for_it_gets_what_moves(self, alice: Person) -> None:
        for size in (400, 20):  # one is made smaller, one only stilled
            name = uploaded(alice, moving(size, size), "image/gif")
            still = shown(thumbnail(alice, name, width=32, height=32))
            moves = shown(thumbnail(alice, name, width=32, height=32, animated="true"))
            assert not getattr(still, "is_animated", False)
            assert getattr(moves, "n_frames", 1) == 3

    def test_advisory_22_no_picture_no_thumbnail(self, alice: Person) -> None:
        """Whatever its sender calls it."""
        foreign = [picture(500, 500, form) for form in ("EPS", "PDF", "TIFF")]
        for data in (b"", b"<svg/>", b"GIF89a", picture(500, 500)[:60], *foreign):
            check_refusal(thumbnail(alice, uploaded(alice, data), width=32, height=32), 400, "M_UNKNOWN")

    def test_too_large_to_hold(self, alice: Person) -> None:
        data = io.BytesIO()
        Image.new("1", (9000, 9000)).save(data, "PNG")
        answer = thumbnail(alice, uploaded(alice, data.getvalue()), width=32, height=32)
        check_refusal(answer, 413, "M_TOO_LARGE")

    @pytest.mark.parametrize(
        "query",
        [{"width": 1}, {"width": 0, "height": 1}, {"width": "a", "height": 1}, {"width": -1, "height": 1}],
    )
    def test_wishes_that_make_no_sense(self, alice: Person, query: dict[str, object]) -> None:
        answer = thumbnail(alice, uploaded(alice, picture(50, 50)), **query)
        assert answer.status == 400, answer
        method = thumbnail(alice, uploaded(alice, b"x"), width=1, height=1, method="squeeze")
        check_refusal(method, 400, "M_INVALID_PARAM")


def test_the_same_bytes_are_kept_once(alice: Person, bob: Person, server: ServerProcess) -> None:
    data = b"a file that everybody has"
    names = {uploaded(alice, data), uploaded(alice, data), uploaded(bob, data)}
    assert len(names) == 3
    media = server.directory / "data" / "media"
    assert sum(1 for path in media.rglob("*") if path.is_file() and path.read_bytes() == data) == 1


def test_guests_look_and_bring_nothing(server: ServerProcess, alice: Person) -> None:
    guest = Person.guest(server)
    name = uploaded(alice, b"for all")
    assert download(guest, name).raw == b"for all"
    check_refusal(guest.call("POST", UPLOAD, b"x"), 403, "M_GUEST_ACCESS_FORBIDDEN")
