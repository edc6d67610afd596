# SPDX-License-Identifier: Apache-2.0
"""What declares a need can be named where the server runs, and nothing else."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest

from homeserver.needs import Protocol

T_co = TypeVar("T_co", covariant=True)


class Rooms(Protocol):
    """Two needs of one service."""

    def room(self, room_id: str) -> str:
        """Never there to be called."""
        ...


class Reader(Protocol[T_co]):
    """Of something."""


class Both(Rooms, Protocol):
    """A need that holds another."""


def test_a_declared_need_leaves_nothing_behind() -> None:
    """Neither methods nor what is said of them; it can be named all the same."""
    assert not hasattr(Rooms, "room")
    declared: list[object] = [Rooms, Both]
    assert declared[0] is declared[1]
    named: list[object] = [list[Rooms | None], Reader[int]]
    assert len(named) == 2


def test_nothing_can_be_asked_of_a_declared_need() -> None:
    """What `typing.Protocol` would let pass, and mean something."""
    need: Any = Rooms
    with pytest.raises(TypeError, match="must not inherit"):
        type("Fulfilled", (need,), {})
    with pytest.raises(TypeError, match="not there to be asked"):
        isinstance("", need)
