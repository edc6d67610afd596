# SPDX-License-Identifier: Apache-2.0
"""One connection's life, with a peer, updates and methods that do as the test says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.clientapi.websocket.frames import Call
from homeserver.clientapi.websocket.session import LONGEST_QUEUE, REPLACED, TRUST, UPDATE_EVERY, Session
from homeserver.errors import Forbidden, UnknownToken
from homeserver.protocol.tokens import SyncToken
from homeserver.stream.places import Places
from homeserver.sync.request import SyncRequest, SyncResponse
from homeserver.web.authentication import Requester
from homeserver.web.signals import Signal

ALICE = "@alice:localhost"
REQUESTER = Requester(user_id=ALICE, device_id="D", expires_ts=1_060_000)


@dataclass(slots=True)
class FakePeer:
    """Takes frames; `full` makes it hold up whoever waits for room."""

    sent: list[dict[str, Any]] = field(default_factory=list)
    full: bool = False
    reading: bool = True
    closing: tuple[int, str] | None = None
    waiting: list[Deferred[None]] = field(default_factory=list)

    def send(self, text: bytes) -> None:
        self.sent.append(orjson.loads(text))

    async def drained(self) -> None:
        if self.full:
            room: Deferred[None] = Deferred()
            self.waiting.append(room)
            await room

    def drain(self) -> None:
        self.full = False
        waiting, self.waiting = self.waiting, []
        for room in waiting:
            room.callback(None)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self, code: int, reason: str) -> None:
        self.closing = (code, reason)


@dataclass(slots=True)
class FakeUpdates:
    """Each request waits until it is answered."""

    places: Places = field(default_factory=lambda: Places(2))
    asked: list[tuple[SyncRequest, float]] = field(default_factory=list)
    waiting: list[Deferred[SyncResponse]] = field(default_factory=list)
    cancelled: int = 0

    def wait(
        self,
        request: SyncRequest,
        timeout: float,
        done: Callable[[SyncResponse], object],
        failed: Callable[[Failure], object],
    ) -> FakeUpdates:
        self.asked.append((request, timeout))
        response: Deferred[SyncResponse] = Deferred()
        response.addCallbacks(done, failed)
        self.waiting.append(response)
        return self

    def close(self) -> None:
        self.cancelled += 1

    def answer(self, position: int) -> None:
        token = SyncToken(position, 0)
        body = orjson.dumps({"next_batch": str(token)})
        self.waiting.pop(0).callback(SyncResponse(body, token, True))


@dataclass(slots=True)
class FakeMethods:
    """`slow` waits until it is finished, `refused` and `broken` fail, the rest echo."""

    called: list[Call] = field(default_factory=list)
    slow: list[Deferred[dict[str, Any]]] = field(default_factory=list)

    async def call(self, requester: Requester, call: Call) -> dict[str, Any]:
        self.called.append(call)
        if call.method == "slow":
            work: Deferred[dict[str, Any]] = Deferred()
            self.slow.append(work)
            return await work
        if call.method == "refused":
            raise Forbidden("no")
        if call.method == "broken":
            raise ValueError("secret")
        return {"echo": call.method}


@dataclass(slots=True)
class Connection:
    """A session and all it talks to."""

    peer: FakePeer = field(default_factory=FakePeer)
    updates: FakeUpdates = field(default_factory=FakeUpdates)
    methods: FakeMethods = field(default_factory=FakeMethods)
    ending: Signal = field(default_factory=Signal)
    watchers: list[Callable[[], None]] = field(default_factory=list)
    revoked: bool = False
    behind: bool = False
    unheard: bool = False
    """That the token has ended: whoever asks whether anything is, hears of it."""
    looked: int = 0
    slowly: Deferred[None] | None = None
    """What a look at the token waits for."""
    now: float = 1_000.0
    sightings: list[str] = field(default_factory=list)
    session: Any = None

    def open(self) -> Connection:
        self.session = Session(
            peer=self.peer,
            requester=REQUESTER,
            request=SyncRequest(user_id=ALICE, device_id="D", full_state=True),
            presence="unavailable",
            token=self,
            updates=self.updates,
            methods=self.methods,  # type: ignore[arg-type]
            sightings=self,
            ending=self.ending,
            now=lambda: self.now,
        )
        self.session.start()
        return self

    async def authenticate(self) -> Requester:
        self.looked += 1
        if self.slowly is not None:
            await self.slowly
        if self.revoked:
            raise UnknownToken("gone")
        return REQUESTER

    def is_behind(self) -> bool:
        if self.unheard:
            self.unheard = False
            for doubt in tuple(self.watchers):
                doubt()
        return self.behind

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.watchers.append(callback)
        return lambda: self.watchers.remove(callback)

    def seen(self, user_id: str, device_id: str | None, set_presence: str) -> None:
        self.sightings.append(set_presence)

    def ask(self, call_id: str, method: str, **params: Any) -> None:
        self.session.received(orjson.dumps({"id": call_id, "method": method, "params": params}))

    @property
    def answers(self) -> list[dict[str, Any]]:
        return [frame for frame in self.peer.sent if "id" in frame]


def test_a_call_is_refused_though_the_end_of_its_token_is_only_heard_when_that_is_looked_for() -> None:
    """What another process told lies in the socket until somebody asks whether anything does."""
    connection = Connection().open()
    connection.updates.answer(5)
    connection.ask("1", "ping")
    assert [call.id for call in connection.methods.called] == ["1"]
    connection.unheard = connection.revoked = True
    connection.ask("2", "ping")
    assert [call.id for call in connection.methods.called] == ["1"]


def test_updates_follow_one_another() -> None:
    """The first is asked for without waiting; each goes on from the one before; full state only once."""
    connection = Connection().open()
    connection.updates.answer(5)
    connection.updates.answer(9)
    (first, at_once), (second, waits), (third, _) = connection.updates.asked
    assert (first.since, first.full_state, at_once) == (None, True, 0.0)
    assert (second.since, second.full_state, waits) == (SyncToken(5, 0), False, UPDATE_EVERY)
    assert third.since == SyncToken(9, 0)
    assert [frame["next_batch"] for frame in connection.peer.sent] == ["s5_0", "s9_0"]


def test_no_update_is_made_while_the_last_one_is_not_read() -> None:
    """What happens meanwhile merges into the next."""
    connection = Connection().open()
    connection.peer.full = True
    connection.updates.answer(5)
    assert len(connection.updates.asked) == 1
    connection.peer.drain()
    assert connection.updates.asked[1][0].since == SyncToken(5, 0)


def test_requests_are_answered_in_order_while_updates_go_on() -> None:
    connection = Connection().open()
    connection.ask("1", "slow")
    connection.ask("2", "ping")
    connection.ask("3", "refused")
    connection.ask("4", "broken")
    connection.session.received(b"{")
    connection.updates.answer(5)
    assert connection.answers == []
    connection.methods.slow[0].callback({"done": True})
    assert connection.answers == [
        {"id": "1", "result": {"done": True}},
        {"id": "2", "result": {"echo": "ping"}},
        {"id": "3", "error": {"errcode": "M_FORBIDDEN", "error": "no"}},
        {"id": "4", "error": {"errcode": "M_UNKNOWN", "error": "Internal server error"}},
        {"id": None, "error": connection.answers[-1]["error"]},
    ]
    assert connection.answers[-1]["error"]["errcode"] == "M_NOT_JSON"


def test_a_client_that_asks_faster_than_it_is_answered_is_not_read() -> None:
    """Nothing is dropped, and reading goes on once half of the queue is worked off."""
    connection = Connection().open()
    connection.ask("slow", "slow")
    for number in range(LONGEST_QUEUE):
        connection.ask(str(number), "ping")
    assert connection.peer.reading is False
    connection.peer.full = True
    connection.methods.slow[0].callback({})
    assert len(connection.answers) == 1
    connection.peer.drain()
    peer = connection.peer
    assert (peer.reading, len(connection.answers)) == (True, LONGEST_QUEUE + 1)


def test_a_token_that_ends_is_told_before_the_connection_closes() -> None:
    connection = Connection().open()
    connection.revoked = True
    connection.watchers[0]()
    assert connection.peer.sent[-1]["error"]["errcode"] == "M_UNKNOWN_TOKEN"
    assert connection.peer.closing == (4001, "gone")
    connection.ask("1", "ping")
    assert connection.methods.called == []


def test_a_token_is_looked_at_once_and_again_after_a_while() -> None:
    """Before the first update, as it may have ended on the way in; then not for each."""
    connection = Connection().open()
    for position, now in ((1, 1_000.0), (2, 1_001.0), (3, 1_000.0 + TRUST)):
        connection.now = now
        connection.updates.answer(position)
        assert connection.looked == (1 if position < 3 else 2)
    late = Connection().open()
    late.revoked = True
    late.updates.answer(1)
    assert late.peer.closing == (4001, "gone") and len(late.peer.sent) == 1


def test_nothing_is_sent_while_it_is_in_doubt_whether_the_token_has_ended() -> None:
    connection = Connection().open()
    connection.updates.answer(1)
    connection.slowly = Deferred()
    connection.watchers[0]()
    connection.updates.answer(2)
    assert len(connection.peer.sent) == 1
    connection.revoked = True
    connection.slowly.callback(None)
    assert [frame.get("next_batch") for frame in connection.peer.sent] == ["s1_0", None]
    assert connection.peer.closing == (4001, "gone")


def test_what_was_found_of_a_token_before_it_ended_does_not_count() -> None:
    connection = Connection().open()
    first = connection.slowly = Deferred()
    connection.updates.answer(1)
    second = connection.slowly = Deferred()
    connection.watchers[0]()
    first.callback(None)
    assert connection.peer.sent == []
    connection.revoked = True
    second.callback(None)
    assert connection.peer.closing == (4001, "gone") and len(connection.peer.sent) == 1


@pytest.mark.parametrize("what", ["update", "call"])
@pytest.mark.parametrize("why", ["it has expired", "another process may have said so"])
def test_nothing_is_done_for_a_token_that_has_ended(what: str, why: str) -> None:
    """Also if nobody said so."""
    connection = Connection().open()
    connection.updates.answer(1)
    connection.revoked = True
    if why == "it has expired":
        connection.now = 1_060.0
    else:
        connection.behind = True
    if what == "update":
        connection.updates.answer(5)
    else:
        connection.ask("1", "send")
    assert connection.methods.called == [] and len(connection.peer.sent) == 2
    assert connection.peer.closing is not None and connection.peer.closing[0] == 4001


def test_presence_is_the_connections_once_it_was_set() -> None:
    connection = Connection().open()
    connection.ask("1", "presence", presence="online")
    connection.updates.answer(5)
    assert connection.sightings == ["unavailable", "online"]


def test_a_stopping_server_says_so() -> None:
    connection = Connection().open()
    connection.ending.fire()
    assert connection.peer.closing is not None and connection.peer.closing[0] == 1001


def test_a_failure_of_ours_closes_with_its_code(caplog: pytest.LogCaptureFixture) -> None:
    connection = Connection().open()
    connection.updates.waiting.pop().errback(ValueError("secret"))
    assert connection.peer.closing == (1011, "Internal server error")
    assert "secret" in caplog.text


def test_a_lost_connection_leaves_nothing_but_what_was_asked_for() -> None:
    """Waiting for updates is given up; a request under way is carried out."""
    connection = Connection().open()
    connection.ask("1", "slow")
    connection.ask("2", "ping")
    connection.session.closed()
    assert connection.updates.cancelled == 1 and connection.watchers == []
    connection.methods.slow[0].callback({})
    assert connection.peer.sent == [] and [call.id for call in connection.methods.called] == ["1"]
    assert connection.peer.closing is None


def test_the_oldest_connection_of_a_device_makes_room() -> None:
    """It ends with a code of its own, and its place is not given back a second time when it is gone."""
    updates = FakeUpdates()
    first, second, third = (Connection(updates=updates).open() for _ in range(3))
    assert first.peer.closing is not None and first.peer.closing[0] == REPLACED
    assert second.peer.closing is None and third.peer.closing is None
    first.session.closed()
    assert len(updates.places) == 2
    second.session.closed()
    third.session.closed()
    assert len(updates.places) == 0


def test_a_connection_that_finds_no_place_ends() -> None:
    updates = FakeUpdates(Places(1))
    assert updates.places.take(ALICE, "somebody else")
    refused = Connection(updates=updates).open()
    assert refused.peer.closing is not None and refused.peer.closing[0] == REPLACED
    assert updates.asked == [] and refused.watchers == []
    refused.session.closed()
