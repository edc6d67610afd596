# SPDX-License-Identifier: Apache-2.0
"""What a history is made of: a cast, some rooms, and a list of steps. Values only; `world` carries them out.

Steps name users, rooms, devices and events by small numbers that wrap around, so any step makes sense anywhere and a
failing history shrinks by leaving steps out. What a step asks for may well be refused: that is part of the history.
`repr` of a history is Python that makes it again: a failure found once is kept by pasting it into a test.
"""

from __future__ import annotations

import itertools
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, ClassVar, Literal

from hypothesis import strategies as st

from tests.sync_proof.oracle import VISIBILITIES

Lazy = Literal["no", "lazy", "redundant"]
JOIN_RULES = ("public", "invite", "knock", "restricted")


class Brief:
    """Prints what differs from the defaults, as Python that makes it again."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __repr__(self) -> str:
        given = [(f, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]
        named = ", ".join(
            repr(value) if f.default is MISSING else f"{f.name}={value!r}" for f, value in given
        )
        return f"{type(self).__name__}({named})"


@dataclass(frozen=True, repr=False)
class Style(Brief):
    """How a device syncs, for its whole life. `timeline_*` filter the timeline, `not_state` the state."""

    lazy: Lazy = "no"
    after: Literal["", "use_state_after", "org.matrix.msc4222.use_state_after"] = ""
    timeline_types: tuple[str, ...] | None = None
    timeline_not_types: tuple[str, ...] = ()
    timeline_not_senders: tuple[int, ...] = ()
    not_state: tuple[str, ...] = ()
    not_rooms: tuple[int, ...] = ()
    include_leave: bool = False
    named_filter: bool = False
    """The filter is stored and named by its id."""
    bounded_gaps: bool = False
    """Gaps are filled with `to`, the token before the gap; else until something known turns up."""
    fill: bool = True
    """Gaps are filled at once; else when a step says so, and in the end."""
    websocket: bool = False


@dataclass(frozen=True, repr=False)
class Device(Brief):
    """A user's device."""

    user: int
    style: Style = Style()


@dataclass(frozen=True, repr=False)
class Room(Brief):
    """A room as user 0 makes it, who stays in it for good and has the power to do anything."""

    visibility: str = "shared"
    join_rule: str = "public"
    version: str = "12"
    invited: tuple[int, ...] = ()
    members: tuple[int, ...] = ()
    """Who is invited and joins before the history begins."""


# Steps on rooms. `user` does it; `back` counts the room's events from the newest.


@dataclass(frozen=True, repr=False)
class Send(Brief):
    user: int
    room: int
    count: int = 1


@dataclass(frozen=True, repr=False)
class SetState(Brief):
    user: int
    room: int
    kind: Literal["name", "no name", "topic", "a", "b", "power"]


@dataclass(frozen=True, repr=False)
class SetVisibility(Brief):
    user: int
    room: int
    value: str


@dataclass(frozen=True, repr=False)
class SetJoinRule(Brief):
    user: int
    room: int
    value: str


@dataclass(frozen=True, repr=False)
class Redact(Brief):
    user: int
    room: int
    back: int


@dataclass(frozen=True, repr=False)
class Own(Brief):
    """A user's own doing to their membership."""

    user: int
    room: int
    verb: Literal["join", "leave", "knock", "forget"]


@dataclass(frozen=True, repr=False)
class Other(Brief):
    """A user's doing to another's membership."""

    user: int
    room: int
    verb: Literal["invite", "kick", "ban", "unban"]
    target: int


@dataclass(frozen=True, repr=False)
class Rename(Brief):
    """A new display name, which goes to all rooms."""

    user: int


# Steps that leave no event.


@dataclass(frozen=True, repr=False)
class Receipt(Brief):
    user: int
    room: int
    back: int
    kind: Literal["m.read", "m.read.private", "m.fully_read"]
    thread: bool = False


@dataclass(frozen=True, repr=False)
class Typing(Brief):
    user: int
    room: int
    typing: bool


@dataclass(frozen=True, repr=False)
class Data(Brief):
    """Account data: of a room, or global."""

    user: int
    room: int | None
    kind: int


@dataclass(frozen=True, repr=False)
class Tag(Brief):
    user: int
    room: int
    present: bool


@dataclass(frozen=True, repr=False)
class Ignore(Brief):
    user: int
    targets: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class Presence(Brief):
    user: int
    state: Literal["online", "unavailable", "offline"]


# Steps of devices.


@dataclass(frozen=True, repr=False)
class Sync(Brief):
    """`repeat`: ask twice and compare. `limit` None: the server's own."""

    device: int
    limit: int | None = 3
    full_state: bool = False
    repeat: bool = False


@dataclass(frozen=True, repr=False)
class Back(Brief):
    """The device loses what it got after an older token, as from a crash, and syncs from there."""

    device: int
    tokens: int
    limit: int | None = 3


@dataclass(frozen=True, repr=False)
class Anew(Brief):
    """The device starts from nothing."""

    device: int
    limit: int | None = 3


@dataclass(frozen=True, repr=False)
class Await(Brief):
    """The device waits in a long poll while a user sends a message."""

    device: int
    user: int
    room: int


@dataclass(frozen=True, repr=False)
class Fill(Brief):
    """The device fills its gaps."""

    device: int


@dataclass(frozen=True, repr=False)
class Hang(Brief):
    """The device's WebSocket breaks; it comes back with the next sync."""

    device: int


Step = (
    Send
    | SetState
    | SetVisibility
    | SetJoinRule
    | Redact
    | Own
    | Other
    | Rename
    | Receipt
    | Typing
    | Data
    | Tag
    | Ignore
    | Presence
    | Sync
    | Back
    | Anew
    | Await
    | Fill
    | Hang
)


@dataclass(frozen=True)
class History:
    """Everything that happens, in order. Users are 0 … `users` - 1."""

    users: int
    rooms: tuple[Room, ...]
    devices: tuple[Device, ...]
    steps: tuple[Step, ...]

    def __repr__(self) -> str:
        steps = "".join(f"\n        {step!r}," for step in self.steps)
        return (
            f"History(\n    users={self.users},\n    rooms={self.rooms!r},\n    devices={self.devices!r},"
            f"\n    steps=({steps}\n    ),\n)"
        )


# How histories are drawn.

USERS, ROOMS, DEVICES = 4, 3, 4

_users = st.integers(0, USERS - 1)
_guests = st.integers(1, USERS - 1)
_rooms = st.integers(0, ROOMS - 1)
_devices = st.integers(0, DEVICES - 1)
_back = st.integers(0, 7)
_limits = st.sampled_from((1, 2, 3, 3, 5, 100, None))
_visibilities = st.sampled_from(VISIBILITIES)
_join_rules = st.sampled_from(("public",) * 4 + ("knock", *JOIN_RULES))


def _seldom(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from((usual,) * (3 * len(others)) + others)


_styles = st.builds(
    Style,
    lazy=st.sampled_from(("no", "no", "lazy", "lazy", "redundant")),
    after=st.sampled_from(("", "", "use_state_after", "org.matrix.msc4222.use_state_after")),
    timeline_types=_seldom(None, ("m.room.message", "m.room.redaction"), ("m.room.*",)),
    timeline_not_types=_seldom(
        (), ("m.room.topic",), ("org.example.*",), ("m.room.member",), ("m.room.redaction",)
    ),
    timeline_not_senders=_seldom((), (1,)),
    not_state=_seldom((), ("m.room.topic",), ("org.example.*",)),
    not_rooms=_seldom((), (1,)),
    include_leave=st.booleans(),
    named_filter=st.booleans(),
    bounded_gaps=st.booleans(),
    fill=st.booleans(),
    websocket=st.sampled_from((False, False, True)),
)

_KINDS: tuple[tuple[int, st.SearchStrategy[Any]], ...] = (
    (5, st.builds(Send, _users, _rooms, st.sampled_from((1, 1, 1, 4)))),
    (
        3,
        st.builds(SetState, _users, _rooms, st.sampled_from(("name", "no name", "topic", "a", "b", "power"))),
    ),
    (1, st.builds(SetVisibility, st.just(0), _rooms, _visibilities)),
    (1, st.builds(SetJoinRule, st.just(0), _rooms, _join_rules)),
    (2, st.builds(Redact, st.sampled_from((0, 0, 1, 2)), _rooms, _back)),
    (1, st.builds(Rename, _users)),
    (6, st.builds(Own, _guests, _rooms, st.just("join"))),
    (3, st.builds(Own, _guests, _rooms, st.sampled_from(("leave", "leave", "forget")))),
    (2, st.builds(Own, _guests, _rooms, st.just("knock"))),
    (2, st.builds(Other, st.just(0), _rooms, st.sampled_from(("invite", "invite", "kick", "ban")), _guests)),
    (1, st.builds(Other, _users, _rooms, st.sampled_from(("invite", "unban", "unban", "kick")), _guests)),
    (
        2,
        st.builds(
            Receipt,
            _users,
            _rooms,
            _back,
            st.sampled_from(("m.read", "m.read.private", "m.read", "m.read.private", "m.fully_read")),
            st.booleans(),
        ),
    ),
    (1, st.builds(Typing, _users, _rooms, st.booleans())),
    (1, st.builds(Data, _users, st.none() | _rooms, st.integers(0, 1))),
    (1, st.builds(Tag, _users, _rooms, st.booleans())),
    (1, st.builds(Ignore, _guests, st.sampled_from(((), (0,), (1,), (2, 3))))),
    (1, st.builds(Presence, _users, st.sampled_from(("online", "unavailable", "offline")))),
)
_single = st.sampled_from([kind for weight, kind in _KINDS for _ in range(weight)]).flatmap(lambda kind: kind)


@st.composite
def _scenes(draw: st.DrawFn) -> tuple[Step, ...]:
    """What chance alone seldom brings about, with nobody looking in between."""
    user, room = draw(_guests), draw(_rooms)
    scene: tuple[Step, ...] = draw(
        st.sampled_from(
            (
                (SetJoinRule(0, room, "knock"), Own(user, room, "leave"), Own(user, room, "knock")),
                (SetJoinRule(0, room, "knock"), Other(0, room, "kick", user), Own(user, room, "knock")),
                (Other(0, room, "kick", user), Other(0, room, "invite", user)),
                (Own(user, room, "leave"), SetState(0, room, "topic"), Own(user, room, "join")),
                (
                    SetState(0, room, "a"),
                    SetVisibility(0, room, "joined"),
                    SetState(0, room, "a"),
                    SetVisibility(0, room, "shared"),
                ),
            )
        )
    )
    return scene


_writes = st.one_of(*(_single.map(lambda step: (step,)) for _ in range(7)), _scenes())

_READS: tuple[tuple[int, st.SearchStrategy[Any]], ...] = (
    (8, st.builds(Sync, _devices, _limits)),
    (2, st.builds(Sync, _devices, _limits, st.booleans(), st.booleans())),
    (2, st.builds(Back, _devices, st.integers(1, 3), _limits)),
    (1, st.builds(Anew, _devices, _limits)),
    (2, st.builds(Await, _devices, _users, _rooms)),
    (1, st.builds(Fill, _devices)),
    (2, st.builds(Hang, _devices)),
)
_reads = st.sampled_from([kind for weight, kind in _READS for _ in range(weight)]).flatmap(lambda kind: kind)
_rounds = st.tuples(st.lists(_writes, max_size=6), _reads)
"""Some things happen, then some device looks."""


@st.composite
def histories(draw: st.DrawFn, longest: int) -> History:
    """Histories of up to `longest` rounds."""
    rooms = tuple(
        Room(
            draw(_visibilities),
            draw(_join_rules),
            draw(st.sampled_from(("12", "12", "11", "10"))),
            tuple(sorted(draw(st.sets(_guests, max_size=2)))),
            draw(st.sampled_from(((1, 2, 3), (1, 2), (), (3,), (1, 2, 3), (1, 2)))),
        )
        for _ in range(draw(st.sampled_from((2, 1, 1, ROOMS))))
    )
    devices = []
    for number in range(DEVICES):
        style = draw(_styles)
        if style.websocket:  # what is left out may not be what tells that it has caught up
            style = Style(lazy=style.lazy, after=style.after, fill=style.fill, websocket=True)
        # Those who come and go see the most; the first two devices are theirs, the next may share a user.
        devices.append(Device((1, 2)[number] if number < 2 else draw(_users), style))
    # Their number is drawn, because a list by itself is drawn shorter than it takes for anything to happen.
    rounds = [draw(_rounds) for _ in range(draw(st.integers(1, longest)))]
    steps = tuple(step for writes, read in rounds for step in (*itertools.chain(*writes), read))
    return History(USERS, rooms, tuple(devices), steps)
