# SPDX-License-Identifier: Apache-2.0
"""Who gets a call of the echo account and who may speak in it, what becomes of calls whose media process dies, and
whose account it is. The rooms, the database and the media process are stood in for: these are its own decisions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from homeserver.app import echo as echo_app
from homeserver.calls.echo.account import EchoActor, ensure_account
from homeserver.calls.echo.calls import BUSY, IDLE, MOST_CALLS, OVERDUE, REPORT, EchoCalls
from homeserver.calls.echo.chats import MOST_DECLINING, EchoChats
from homeserver.calls.echo.signalling import Invite, candidates_of, invite_of, new_offer_of
from homeserver.calls.media.messages import CallReport
from homeserver.config import Config, StartRefused
from homeserver.config.echo_sections import Calls
from homeserver.errors import NotFound
from homeserver.rooms.actor import Actor
from storage.echo import LeftCall
from storage.users import User

OWN = "@echo:here"


class Rooms:
    """Chats with whoever the room is named after; what was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, Mapping[str, Any]]] = []

    async def other_user(self, room_id: str) -> str | None:
        return f"@{room_id[1:]}:here"

    async def send(self, room_id: str, event_type: str, content: Mapping[str, Any]) -> bool:
        self.sent.append((room_id, event_type, content))
        return True

    async def say(self, room_id: str, text: str, **more: Any) -> None:
        await self.send(room_id, "m.room.message", {"body": text, **more})

    def in_room(self, room_id: str) -> list[tuple[str, Mapping[str, Any]]]:
        return [(kind, content) for there, kind, content in self.sent if there == room_id]


class Kept:
    """The rows."""

    def __init__(self) -> None:
        self.calls: set[tuple[str, str]] = set()

    async def begin(self, call: LeftCall) -> None:
        self.calls.add((call.room_id, call.call_id))

    async def end(self, room_id: str, call_id: str) -> None:
        self.calls.discard((room_id, call_id))


class Media:
    """Commands."""

    def __init__(self) -> None:
        self.commands: list[Mapping[str, Any]] = []
        self.rested = 0

    def send(self, command: Mapping[str, Any]) -> None:
        self.commands.append(command)

    def rest(self) -> Deferred[None]:
        self.rested += 1
        return succeed(None)


class World:
    def __init__(self) -> None:
        self.rooms, self.kept, self.media, self.clock = Rooms(), Kept(), Media(), Clock()
        self.calls = EchoCalls(
            own=OWN,
            chats=self.rooms,
            kept=self.kept,
            media=lambda _: self.media,
            relays=None,
            scheduler=self.clock,
        )

    async def invite(self, name: str, call_id: str = "call") -> None:
        await self.calls.invited(
            Invite(
                room_id=f"!{name}",
                call_id=call_id,
                caller=f"@{name}:here",
                party_id="P",
                version="1",
                sdp="an offer",
            )
        )

    def media_ids(self) -> list[str]:
        return [command["id"] for command in self.media.commands if command["do"] == "answer"]

    def ended(self, media_id: str, why: Any = "over") -> None:
        report = CallReport(why=why, seconds=1.5, connected=False)
        self.calls.told({"tell": "ended", "id": media_id, "report": report.as_dict()})


@pytest.fixture
def world() -> World:
    return World()


async def test_a_media_process_that_hangs_is_ended(world: World) -> None:
    """Whoever hung it would else have ended the echo for everybody."""
    await world.invite("ann")
    world.clock.advance(OVERDUE - 1)
    await world.invite("bob")
    assert world.media.rested == 0
    world.clock.advance(1)
    assert (world.media.rested, len(world.calls), world.kept.calls) == (1, 0, set())
    for name in ("ann", "bob"):
        assert world.rooms.in_room(f"!{name}")[0][0] == "m.call.hangup"
    world.clock.advance(2 * OVERDUE + IDLE)
    assert world.media.rested == 2  # once more when idle
    await world.invite("ann", "again")
    world.ended(world.media_ids()[-1])
    world.clock.advance(2 * OVERDUE)
    assert (world.media.rested, len(world.calls)) == (3, 0)


async def test_a_few_calls_at_once_and_one_for_each(world: World) -> None:
    """One too many is declined and told so; a second one of the same person is declined."""
    names = [f"user{number}" for number in range(MOST_CALLS)]
    for name in names:
        await world.invite(name)
    await world.invite("late")
    await world.invite(names[0], "again")
    assert len(world.media_ids()) == MOST_CALLS == len(world.calls) == len(world.kept.calls)
    (kind, content), (_, told) = world.rooms.in_room("!late")
    assert (kind, content["reason"]) == ("m.call.reject", "user_busy")
    assert told["body"] == BUSY
    ((kind, content),) = world.rooms.in_room(f"!{names[0]}")
    assert (kind, content["call_id"], content["reason"]) == ("m.call.reject", "again", "user_busy")
    world.ended(world.media_ids()[0])
    await world.invite("late")
    assert len(world.media_ids()) == MOST_CALLS + 1


async def test_who_is_not_the_other_of_a_chat_gets_no_call(world: World) -> None:
    """Another user's invite, wherever it comes from, does nothing."""
    invite = Invite(
        room_id="!one", call_id="c", caller="@other:elsewhere", party_id="P", version="1", sdp="an offer"
    )
    await world.calls.invited(invite)
    assert (world.media.commands, world.rooms.sent) == ([], [])


async def test_only_the_caller_speaks_in_a_call(world: World) -> None:
    """Not another user, not another device of the caller; a call of another name is another call."""
    await world.invite("one")
    content = {"call_id": "call", "party_id": "P", "version": "1"}
    for change in (
        {"sender": "@two:here"},
        {"content": content | {"party_id": "Q"}},
        {"content": content | {"call_id": "other"}},
        {"content": None},
    ):
        event = {"type": "m.call.hangup", "sender": "@one:here", "content": content} | change
        world.calls.happened("!one", event)
    world.calls.happened("!two", {"type": "m.call.hangup", "sender": "@one:here", "content": content})
    assert [command["do"] for command in world.media.commands] == ["answer"]
    world.calls.happened("!one", {"type": "m.call.hangup", "sender": "@one:here", "content": content})
    assert world.media.commands[-1]["do"] == "end"


async def test_when_the_media_process_dies_everybody_is_told(world: World) -> None:
    """Hung up on, with a notice; the next call has another process."""
    await world.invite("one")
    await world.invite("two")
    world.calls.died()
    for room_id in ("!one", "!two"):
        (kind, content), (_, told) = world.rooms.in_room(room_id)
        assert (kind, content["reason"]) == ("m.call.hangup", "unknown_error")
        assert "call once more" in told["body"] and told[REPORT]["why"] == "stopped"
    assert not world.kept.calls and not len(world.calls)
    await world.invite("one", "next")
    assert len(world.media_ids()) == 3


async def test_the_media_process_is_let_go_when_nobody_calls(world: World) -> None:
    """After a while; a call in between keeps it."""
    await world.invite("one")
    world.ended(world.media_ids()[0])
    world.clock.advance(IDLE - 1)
    await world.invite("two")
    world.clock.advance(IDLE)
    assert world.media.rested == 0
    world.ended(world.media_ids()[1])
    world.clock.advance(IDLE)
    assert world.media.rested == 1


@pytest.mark.parametrize(
    ("change", "held"),
    [
        ({}, True),
        ({"invitee": OWN}, True),
        ({"invitee": "@a:here"}, False),
        ({"lifetime": 500}, False),
        ({"lifetime": "60000"}, False),
        ({"lifetime": None}, False),
        ({"offer": {"type": "answer", "sdp": "s"}}, False),
        ({"offer": "s"}, False),
        ({"offer": {"type": "offer", "sdp": 5}}, False),
        ({"call_id": ""}, False),
        ({"call_id": "x" * 300}, False),
        ({"call_id": 7}, False),
        ({"party_id": None}, False),
        ({"party_id": None, "version": 0}, True),
        ({"version": 1}, True),
        ({"version": "2"}, True),
    ],
)
def test_what_is_an_invite(change: dict[str, Any], held: bool) -> None:
    """And what is none, or none for the echo."""
    content = {
        "call_id": "c",
        "party_id": "P",
        "version": "1",
        "lifetime": 60_000,
        "offer": {"type": "offer", "sdp": "s"},
    }
    event = {"sender": "@a:here", "content": content | change, "unsigned": {"age": 10}}
    assert (invite_of("!room", event, OWN) is not None) == held


def test_odd_contents_are_taken_for_nothing() -> None:
    """Whatever stands where candidates and descriptions should."""
    for found in (None, 5, "abc", {"a": 1}, [1, "x", None]):
        assert candidates_of({"candidates": found}) == []
        assert new_offer_of({"description": found}) is None


class Users:
    """One account, or none."""

    def __init__(self, user: User | None) -> None:
        self._user = user

    async def get(self, user_id: str) -> User | None:
        return self._user


class Leaving:
    """Never comes to an end, like a server that does not answer."""

    def __init__(self) -> None:
        self.rooms: list[str] = []
        self.unanswered: list[Deferred[None]] = []

    async def leave(self, actor: Actor, room_id: str, *, reason: str | None = None) -> str:
        self.rooms.append(room_id)
        self.unanswered.append(Deferred())
        await self.unanswered[-1]
        return ""


class NoRooms:
    async def get(self, room_id: str) -> None:
        return None


async def test_invites_from_elsewhere_hold_nothing_up() -> None:
    """They are declined beside everything else, a few at once; nobody waits for a server that does not answer."""
    leaving = Leaving()
    chats = EchoChats(
        actor=EchoActor(OWN),
        rooms=NoRooms(),
        joining=None,  # type: ignore[arg-type]
        leaving=leaving,
        sending=None,  # type: ignore[arg-type]
    )
    invite = {"type": "m.room.member", "state_key": OWN, "sender": "@mallory:elsewhere"}
    for number in range(MOST_DECLINING + 5):
        await chats.invited(f"!{number}", [invite])
    assert len(leaving.rooms) == MOST_DECLINING
    for unanswered in leaving.unanswered:
        unanswered.errback(NotFound("no such room any more"))
    await chats.invited("!again", [invite])
    assert leaving.rooms[-1] == "!again"


async def test_it_takes_nobodys_account() -> None:
    """A person of that name keeps it, and the administrator is told to choose another."""
    person = User(OWN, "hash", 0, False, False, False, False, False, False, None)
    with pytest.raises(StartRefused, match="somebody's account"):
        await ensure_account(Users(person), None, OWN, "Echo")  # type: ignore[arg-type]


async def test_without_aiortc_the_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sentence that says how to go on."""
    monkeypatch.setattr(echo_app, "is_installed", lambda: False)
    config = Config(calls=Calls(echo_user="echo"))
    with pytest.raises(StartRefused, match="pip install 'lares\\[calls\\]'"):
        await echo_app.start_echo(None, config, None, None)  # type: ignore[arg-type]
