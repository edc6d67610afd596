# SPDX-License-Identifier: Apache-2.0
"""The shortest histories that once broke a promise, with what was at stake in each."""

from __future__ import annotations

import pytest

from tests.sync_proof.program import (
    Device,
    History,
    Other,
    Own,
    Redact,
    Room,
    Send,
    SetState,
    SetVisibility,
    Style,
    Sync,
)
from tests.sync_proof.running import Runner

HISTORIES = {
    # The state of a room that was left includes what happened unseen before the user joined.
    "state hidden from a former member": History(
        2,
        (Room(visibility="joined"),),
        (Device(1, Style(include_leave=True)), Device(1, Style(lazy="lazy", include_leave=True))),
        (SetState(0, 0, "topic"), Own(1, 0, "join"), Other(0, 0, "kick", 1), Sync(0), Sync(1, 1)),
    ),
    # A state event of the timeline must not undo a newer one that the reader may not see.
    "visible state superseded unseen": History(
        2,
        (Room(),),
        (Device(1), Device(1, Style(lazy="lazy"))),
        (
            SetState(0, 0, "topic"),
            SetVisibility(0, 0, "joined"),
            SetState(0, 0, "topic"),
            Own(1, 0, "join"),
            Sync(0, 100),
            Sync(1, 100),
        ),
    ),
    # Who first syncs while out of a room has nothing of the earlier stay when they come back.
    "rejoined after a first sync outside": History(
        2,
        (Room(),),
        (Device(1), Device(1, Style(after="use_state_after"))),
        (
            Own(1, 0, "join"),
            Send(1, 0),
            Own(1, 0, "leave"),
            Sync(0),
            Sync(1),
            Own(1, 0, "join"),
            Sync(0, 100),
            Sync(1, 100),
        ),
    ),
    # A room whose name is redacted is called after its members, though no state changes with it.
    "name redacted after a join": History(
        3,
        (Room(members=(2,)),),
        (Device(0),),
        (
            Sync(0, 100),
            SetState(0, 0, "name"),
            Sync(0, 100),
            Own(1, 0, "join"),
            Sync(0, 100),
            Redact(0, 0, 1),
            Sync(0, 100),
        ),
    ),
    # Who is invited again before they hear of their leave is told of the invite only.
    "invited again before the leave was told": History(
        2,
        (Room(members=(1,)),),
        (Device(1),),
        (
            Sync(0, 100),
            Send(0, 0, 2),
            Other(0, 0, "kick", 1),
            Other(0, 0, "invite", 1),
            Sync(0, 100),
            Own(1, 0, "join"),
            Sync(0, 100),
        ),
    ),
    "invited again, rejected": History(
        2,
        (Room(members=(1,)),),
        (Device(1),),
        (
            Sync(0, 100),
            Send(0, 0, 2),
            Other(0, 0, "kick", 1),
            Other(0, 0, "invite", 1),
            Sync(0, 100),
            Own(1, 0, "leave"),
            Sync(0, 100),
        ),
    ),
    # Lazy loading, back after an absence: a member the device knows has left meanwhile.
    "member left during an absence": History(
        4,
        (Room(visibility="joined", members=(1, 3)),),
        (Device(1, Style(lazy="lazy")), Device(1, Style(lazy="lazy", after="use_state_after"))),
        (
            Send(3, 0),
            Sync(0),
            Sync(1),
            Own(1, 0, "leave"),
            Sync(0),
            Sync(1),
            Other(0, 0, "kick", 3),
            SetVisibility(0, 0, "shared"),
            Own(1, 0, "join"),
            Sync(0, 1),
            Sync(1, 1),
        ),
    ),
    # The same, but the device hears of the absence in one response with its end.
    "came and went between two syncs": History(
        4,
        (Room(visibility="joined", members=(1, 3)),),
        (Device(1, Style(lazy="lazy", include_leave=True)),),
        (
            Send(3, 0),
            Sync(0),
            Own(1, 0, "leave"),
            Sync(0),
            Other(0, 0, "kick", 3),
            Own(1, 0, "join"),
            Own(1, 0, "leave"),
            Sync(0, 1),
        ),
    ),
    # Lazy loading: a member left before the stay ended, and the invite came before word of either.
    "member left unheard before an absence": History(
        4,
        (Room(members=(1, 3)),),
        (Device(1, Style(lazy="lazy")), Device(1, Style(lazy="lazy", after="use_state_after"))),
        (
            Send(3, 0),
            Sync(0),
            Sync(1),
            Other(0, 0, "kick", 3),
            Other(0, 0, "kick", 1),
            Other(0, 0, "invite", 1),
            Sync(0),
            Sync(1),
            Own(1, 0, "join"),
            Sync(0, 1),
            Sync(1, 1),
        ),
    ),
    # What a state filter leaves out is known from timelines alone, so the newest of it need not be.
    "state that only a timeline told of": History(
        4,
        (Room(visibility="world_readable", version="12", members=(1, 2, 3)),),
        (Device(0, Style(not_state=("org.example.*",), include_leave=True, named_filter=True)),),
        (
            Other(0, 0, "kick", 3),
            SetState(1, 0, "a"),
            Sync(0, 5),
            SetState(0, 0, "a"),
            SetVisibility(0, 0, "shared"),
            Sync(0, 1),
        ),
    ),
}


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_history(runner: Runner, history: History) -> None:
    """Every promise holds."""
    runner.run(history)
