# SPDX-License-Identifier: Apache-2.0
"""What is kept, for how long, and how often another server is asked."""

from __future__ import annotations

import io
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image
from twisted.internet.defer import Deferred, gatherResults

from homeserver.errors import Forbidden, LimitExceeded, NotFound, NotYetUploaded
from homeserver.media.blobs import Blobs
from homeserver.media.downloads import Downloads
from homeserver.media.remote import Fetched
from homeserver.media.sweeping import UNNAMED_FOR, MediaSweeping
from homeserver.media.thumbnails import Thumbnails
from homeserver.media.uploads import RESERVED_FOR, Uploads
from homeserver.spooling import Spool, SpoolFull, SpoolRoom
from storage.database import Database
from storage.media import MediaRow, MediaStore
from tests.reactor import reactor

ALICE = "@alice:near.test"
CACHE = 2500


def _picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (100, 50), "red").save(out, "PNG")
    return out.getvalue()


PICTURE = _picture()


class Far:
    """Another server: every id below `m` has a kilobyte of its own."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may_answer: Deferred[None] | None = None
        self.turned = False
        """What it gives for `picture` is something else by now."""

    async def fetch(self, server_name: str, media_id: str, spool: Spool, *, timeout_ms: int) -> Fetched:
        self.asked.append(media_id)
        if self.may_answer is not None:
            await self.may_answer
        if media_id == "late" and timeout_ms == 0:
            raise NotYetUploaded
        if media_id == "picture":
            spool.write(PICTURE[::-1] if self.turned else PICTURE)
            return Fetched("image/png", None)
        if media_id >= "m":
            raise NotFound("The other server has no such media")
        spool.write(media_id.encode() * 1000)
        return Fetched("text/plain", None)


class World:
    """The services on a clock that is set by hand."""

    def __init__(self, database: Database, directory: Path) -> None:
        self.time = 1_000_000_000_000
        self.directory = directory
        self.store = MediaStore(database)
        self.blobs = Blobs(directory, self.store, self.now)
        self.far = Far()
        self.uploads = Uploads(
            server_name="near.test",
            store=self.store,
            blobs=self.blobs,
            max_size=10_000,
            user_quota=3000,
            now=self.now,
        )
        self.downloads = Downloads(
            reactor,
            server_name="near.test",
            store=self.store,
            blobs=self.blobs,
            remote=self.far,
            max_remote_size=10_000,
            now=self.now,
        )
        self.sweeping = MediaSweeping(
            reactor,
            store=self.store,
            blobs=self.blobs,
            remote_cache=CACHE,
            now=self.now,
            my_turn=self.my_turn,
        )

    def now(self) -> int:
        return self.time

    async def my_turn(self, _seconds: float) -> bool:
        return True

    async def upload(self, data: bytes) -> str:
        """Its media id."""
        spool = self.blobs.spools.open(10_000)
        spool.write(data)
        try:
            uri = await self.uploads.upload(ALICE, spool, content_type=None, filename=None)
        finally:
            spool.discard()
        return uri.rpartition("/")[2]

    def files(self) -> set[bytes]:
        """What is on the disk."""
        return {path.read_bytes() for path in self.directory.rglob("*") if path.is_file()}


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    return World(database, tmp_path)


async def test_one_who_asks_is_enough_for_all(world: World) -> None:
    world.far.may_answer = Deferred()
    asking = [Deferred.fromCoroutine(world.downloads.find("far.test", "a")) for _ in range(5)]
    while not world.far.asked:
        await _a_moment()
    world.far.may_answer.callback(None)
    found = await gatherResults(asking)
    assert {media.path.read_bytes() for media in found} == {b"a" * 1000}
    await world.downloads.find("far.test", "a")
    assert world.far.asked == ["a"]


async def test_who_is_told_late_that_it_is_not_here_finds_what_has_come(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, told = world.store.find, Deferred[None]()

    async def late(server_name: str, media_id: str) -> MediaRow | None:
        monkeypatch.setattr(world.store, "find", find)
        row = await find(server_name, media_id)
        await told
        return row

    monkeypatch.setattr(world.store, "find", late)
    asking = Deferred.fromCoroutine(world.downloads.find("far.test", "a"))
    media = await world.downloads.find("far.test", "a")
    told.callback(None)
    assert (await asking).digest == media.digest
    assert world.far.asked == ["a"]


async def test_everybody_waits_as_long_as_they_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who joined a fetch of somebody with no patience is not told that nothing came yet, but asks for those left."""
    find, looked = world.store.find, list[str]()

    async def noted(server_name: str, media_id: str) -> MediaRow | None:
        row = await find(server_name, media_id)
        looked.append(media_id)
        return row

    monkeypatch.setattr(world.store, "find", noted)
    world.far.may_answer = Deferred()
    asking = []
    for number, patience in enumerate((0, 0, 20_000, 20_000), 1):
        asking.append(Deferred.fromCoroutine(world.downloads.find("far.test", "late", timeout_ms=patience)))
        while len(looked) < number:
            await _a_moment()
    world.far.may_answer.callback(None)
    for impatient in asking[:2]:
        with pytest.raises(NotYetUploaded):
            await impatient
    assert {(await each).digest for each in asking[2:]} == {sha256(b"late" * 1000).digest()}
    assert world.far.asked == ["late", "late"]


async def test_what_is_not_there_is_not_asked_for_again_and_again(world: World) -> None:
    for _ in range(3):
        with pytest.raises(NotFound):
            await world.downloads.find("far.test", "nothing")
    assert world.far.asked == ["nothing"]
    world.time += 61_000
    with pytest.raises(NotFound):
        await world.downloads.find("far.test", "nothing")
    assert len(world.far.asked) == 2


async def test_of_what_others_have_the_longest_unread_goes(world: World) -> None:
    for name in "abc":
        await world.downloads.find("far.test", name)
        world.time += 2 * 3600 * 1000
    await world.downloads.find("far.test", "a")
    own = await world.upload(b"mine")
    world.time += UNNAMED_FOR + 1
    assert await world.sweeping.sweep() == 1
    assert world.files() == {b"a" * 1000, b"c" * 1000, b"mine"}
    assert (await world.downloads.own(own)).size == 4
    await world.downloads.find("far.test", "b")
    assert world.far.asked == ["a", "b", "c", "b"]


async def test_a_file_that_is_named_again_stays(world: World) -> None:
    await world.downloads.find("far.test", "a")
    mine = await world.upload(b"a" * 1000)
    await world.store.evict(0)
    world.time += UNNAMED_FOR + 1
    assert await world.sweeping.sweep() == 0
    assert (await world.downloads.own(mine)).path.read_bytes() == b"a" * 1000


async def test_files_that_are_lost(world: World) -> None:
    """What is another server's is fetched again, a thumbnail made again; of the rest it is said that it is lost."""
    mine = await world.upload(b"mine")
    thumbnails = Thumbnails(world.store, world.blobs)
    picture = await world.downloads.find("far.test", "picture")
    small = await thumbnails.of(picture, 32, 32, crop=False, animated=False)
    for path in [*world.directory.rglob("*")]:
        if path.is_file():
            path.unlink()
    with pytest.raises(NotFound):
        await world.downloads.own(mine)
    again = await world.downloads.find("far.test", "picture")
    assert again == picture
    assert again.path.read_bytes() == PICTURE
    assert await thumbnails.of(again, 32, 32, crop=False, animated=False) == small
    assert small.path.is_file()
    world.far.turned = True
    again.path.unlink()
    assert (await world.downloads.find("far.test", "picture")).path.read_bytes() == PICTURE[::-1]
    assert (await world.downloads.find("far.test", "picture")).path.read_bytes() == PICTURE[::-1]
    assert world.far.asked == ["picture"] * 3


async def test_one_slow_server_does_not_hold_up_all_others(world: World) -> None:
    world.far.may_answer = Deferred()
    asking = [Deferred.fromCoroutine(world.downloads.find("far.test", f"a{at}")) for at in range(20)]
    while len(world.far.asked) < len(asking):
        await _a_moment()
    with pytest.raises(LimitExceeded):
        await world.downloads.find("far.test", "b")
    asking.append(Deferred.fromCoroutine(world.downloads.find("other.test", "b")))
    while "b" not in world.far.asked:
        await _a_moment()
    world.far.may_answer.callback(None)
    await gatherResults(asking)


async def test_reservations_lapse(world: World) -> None:
    uri, expires = await world.uploads.reserve(ALICE)
    assert expires == world.time + RESERVED_FOR
    media_id = uri.rpartition("/")[2]
    world.time = expires
    with pytest.raises(NotFound):
        await world.downloads.own(media_id)
    spool = world.blobs.spools.open(10)
    with pytest.raises(NotFound):
        await world.uploads.fill(ALICE, "near.test", media_id, spool, content_type=None, filename=None)
    spool.discard()
    await world.sweeping.sweep()
    assert await world.store.find("near.test", media_id) is None


async def test_nobody_uploads_without_end(world: World) -> None:
    for at in range(3):
        await world.upload(bytes([at]) * 1000)
    with pytest.raises(Forbidden):
        await world.upload(b"x")


def test_bodies_on_their_way_are_bounded(tmp_path: Path) -> None:
    """Each alone, and all together; who ends gives the room back."""
    room = SpoolRoom(tmp_path, 1000)
    first, second = room.open(800), room.open(800)
    first.write(bytes(700))
    with pytest.raises(SpoolFull) as alone:
        first.write(bytes(101))
    with pytest.raises(SpoolFull) as together:
        second.write(bytes(400))
    assert (alone.value.alone, together.value.alone) == (True, False)
    first.discard()
    first.discard()
    second.write(bytes(400))
    second.settle(tmp_path / "kept" / "file")
    second.discard()
    assert (tmp_path / "kept" / "file").read_bytes() == bytes(400)
    third = room.open(1000)
    third.write(bytes(1000))
    third.discard()


def test_nobody_takes_all_the_room(tmp_path: Path) -> None:
    """A quarter of it, or one body however large, is what one owner may hold."""
    room = SpoolRoom(tmp_path, 1000)
    greedy = [room.open(200, "greedy") for _ in range(2)]
    greedy[0].write(bytes(200))
    with pytest.raises(SpoolFull):
        greedy[1].write(bytes(51))
    greedy[1].write(bytes(50))
    unknown = room.open(500)
    unknown.write(bytes(300))
    unknown.belongs_to("other")
    unknown.write(bytes(200))
    for spool in (*greedy, unknown):
        spool.discard()
    whole = room.open(1000, "greedy")
    whole.write(bytes(1000))
    whole.discard()


async def _a_moment() -> None:
    moment: Deferred[None] = Deferred()
    reactor.callLater(0, moment.callback, None)
    await moment
