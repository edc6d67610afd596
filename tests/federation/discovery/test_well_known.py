# SPDX-License-Identifier: Apache-2.0
"""How long `.well-known` answers are believed, and what is made of bad ones."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import pytest
from twisted.internet.defer import Deferred

from federation.discovery.well_known import WellKnown, WellKnownCache, kept_for, read_document
from homeserver.outgoing import OutgoingClient, OutgoingResponse
from homeserver.outgoing.errors import ConnectFailed, OutgoingError, Overloaded

HOUR = 3600.0
NOW = 1_700_000_000.0
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 24 * HOUR),
        ({"cache-control": "public"}, 24 * HOUR),
        ({"cache-control": "public, max-age=7200"}, 2 * HOUR),
        ({"cache-control": 'Max-Age="7200"', "expires": "0"}, 2 * HOUR),
        ({"cache-control": "max-age=7200", "age": "3600"}, HOUR),
        ({"cache-control": "max-age=1"}, 300),
        ({"cache-control": "max-age=99999999999999999999999"}, 48 * HOUR),
        ({"cache-control": "max-age=nonsense"}, 24 * HOUR),
        ({"cache-control": "no-store, max-age=7200"}, 300),
        ({"cache-control": "no-cache"}, 300),
        ({"expires": "Wed, 15 Nov 2023 00:13:20 GMT"}, 2 * HOUR),
        ({"expires": "Wed, 15 Nov 2023 00:13:20 GMT", "date": "Tue, 14 Nov 2023 23:13:20 GMT"}, HOUR),
        ({"expires": "Thu, 14 Nov 2024 22:13:20 GMT"}, 48 * HOUR),
        ({"expires": DATE}, 300),
        ({"expires": "0"}, 300),
        ({"expires": "-1", "date": "then"}, 300),
    ],
)
def test_how_long_an_answer_is_kept(headers: Mapping[str, str], seconds: float) -> None:
    """As the headers ask, at least five minutes, at most 48 hours, a day if they say nothing."""
    assert kept_for(headers, NOW) == seconds


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"{}",
        b'{"m.server": 1}',
        b'{"m.server": "a b"}',
        b'{"m.server": NaN}',
        b"[" * 50_000,
    ],
)
def test_documents_that_delegate_nothing(body: bytes) -> None:
    """They are as good as none, and say why."""
    name, problem = read_document(body)
    assert name is None
    assert problem


class Answers:
    """In the place of the client: gives what the test says next, and counts."""

    def __init__(self) -> None:
        self.next: OutgoingResponse | OutgoingError = delegating("first.example")
        self.asked: list[str] = []
        self.held: Deferred[None] | None = None

    async def fetch(self, url: str, **_options: object) -> OutgoingResponse:
        self.asked.append(url)
        if self.held is not None:
            await self.held
        if isinstance(self.next, OutgoingError):
            raise self.next
        return self.next


def delegating(name: str, **headers: str) -> OutgoingResponse:
    """A good answer."""
    return OutgoingResponse(200, headers, b'{"m.server": "%s"}' % name.encode())


def status(code: int) -> OutgoingResponse:
    """An answer without a document."""
    return OutgoingResponse(code, {}, b"")


class Time:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def cache(answers: Answers, time: Time) -> WellKnownCache:
    client: OutgoingClient = answers  # type: ignore[assignment]
    return WellKnownCache(client, seconds=time, now=lambda: NOW)


async def test_an_answer_is_fetched_once(cache: WellKnownCache, answers: Answers, time: Time) -> None:
    """Until its time is over; whoever asks meanwhile, together or later, gets the same."""
    answers.held = Deferred()
    asked = [Deferred.fromCoroutine(cache.look_up("example.org")) for _ in range(3)]
    asked[0].cancel()
    answers.held.callback(None)
    assert [await each for each in asked[1:]] == [WellKnown("first.example")] * 2
    asked[0].addErrback(lambda _: None)
    time.now += 24 * HOUR - 1
    assert await cache.look_up("example.org") == WellKnown("first.example")
    assert answers.asked == ["https://example.org/.well-known/matrix/server"]
    answers.held = None
    answers.next = delegating("second.example")
    time.now += 2
    assert await cache.look_up("example.org") == WellKnown("second.example")
    assert len(answers.asked) == 2


async def waits(cache: WellKnownCache, answers: Answers, time: Time, count: int) -> list[float]:
    """The seconds between the next fetches, as they come about when asked every 100 seconds."""
    began: list[float] = []
    before = len(answers.asked)
    while len(began) <= count:
        await cache.look_up("example.org")
        if len(answers.asked) > before:
            began.append(time.now)
            before = len(answers.asked)
        time.now += 100
    return [later - earlier for earlier, later in pairwise(began)]


async def test_failures_are_kept_for_longer_each_time(
    cache: WellKnownCache, answers: Answers, time: Time
) -> None:
    """Twice as long, up to an hour."""
    answers.next = ConnectFailed("no connection")
    assert await waits(cache, answers, time, 6) == [300, 600, 1200, 2400, 3600, 3600]


@pytest.mark.parametrize("answer", [status(404), OutgoingResponse(200, {}, b"<html>")])
async def test_no_document_is_an_answer(
    cache: WellKnownCache, answers: Answers, time: Time, answer: OutgoingResponse
) -> None:
    """Kept for an hour."""
    answers.next = answer
    assert (await cache.look_up("example.org")).delegated_name is None
    assert await waits(cache, answers, time, 1) == [3600]


async def test_a_delegation_outlives_failures(cache: WellKnownCache, answers: Answers, time: Time) -> None:
    """For 48 hours, while it is asked for again and again; then it is over."""
    await cache.look_up("example.org")
    began = time.now
    answers.next = status(502)
    while time.now < began + 48 * HOUR - 100:
        time.now += 100
        assert (await cache.look_up("example.org")).delegated_name == "first.example"
    assert len(answers.asked) > 20
    time.now = began + 48 * HOUR
    assert await cache.look_up("example.org") == WellKnown(None, "the answer was HTTP 502")


async def test_a_delegation_ends_when_the_server_says_so(
    cache: WellKnownCache, answers: Answers, time: Time
) -> None:
    """404 is an answer."""
    await cache.look_up("example.org")
    answers.next = status(404)
    time.now += 25 * HOUR
    assert (await cache.look_up("example.org")).delegated_name is None


async def test_doubt_shortens_the_wait(cache: WellKnownCache, answers: Answers, time: Time) -> None:
    """To ten minutes, however often it is voiced."""
    await cache.look_up("example.org")
    answers.next = delegating("second.example")
    for _ in range(3):
        time.now += 150
        cache.doubt("example.org")
        assert await cache.look_up("example.org") == WellKnown("first.example")
    time.now += 151
    assert await cache.look_up("example.org") == WellKnown("second.example")


async def test_our_own_trouble_is_not_kept(cache: WellKnownCache, answers: Answers) -> None:
    """A server is not taken for one without a document because this one was too busy to ask."""
    answers.next = Overloaded("too many requests")
    with pytest.raises(Overloaded):
        await cache.look_up("example.org")
    answers.next = delegating("first.example")
    assert await cache.look_up("example.org") == WellKnown("first.example")


async def test_what_is_kept_is_bounded(
    cache: WellKnownCache, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A remote user may name any number of servers."""
    monkeypatch.setattr("federation.discovery.well_known.MAX_KEPT", 10)
    for number in range(30):
        await cache.look_up(f"{number}.example")
    assert len(cache._kept) == 10
