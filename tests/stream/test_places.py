# SPDX-License-Identifier: Apache-2.0
"""How many of one user may wait at once, and who gives way."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from homeserver.errors import LimitExceeded
from homeserver.stream.listeners import Listeners
from homeserver.stream.places import MOST, Places

ALICE, BOB = "@alice:localhost", "@bob:localhost"


class Holder:
    """Notes that it must go."""

    def __init__(self, device_id: str | None, then: Callable[[], object] | None = None) -> None:
        self.device_id = device_id
        self.expired = False
        self._then = then

    def expire(self) -> None:
        self.expired = True
        if self._then is not None:
            self._then()


def filled(*devices: str | None) -> tuple[Places, list[Holder]]:
    """Places, all of them taken by devices of Alice's."""
    places, holders = Places(len(devices)), [Holder(device) for device in devices]
    for holder in holders:
        assert places.has_room(ALICE, holder.device_id)
        assert places.take(ALICE, holder, holder)
    return places, holders


def test_one_too_many_is_refused_and_others_are_not() -> None:
    places, _ = filled("A", "B", "C")
    late, other = Holder("D"), Holder("D")
    assert not places.has_room(ALICE, "D") and not places.take(ALICE, late, late)
    assert places.has_room(BOB, "D") and places.take(BOB, other, other)


def test_a_place_that_is_given_back_is_free() -> None:
    """Once, however often it is given back, and nothing is kept of who is gone."""
    places, holders = filled("A", "B", "C")
    for _ in range(2):
        places.leave(ALICE, holders[1])
    late, later = Holder("D"), Holder("E")
    assert places.take(ALICE, late, late) and not places.take(ALICE, later, later)
    for holder in (*holders, late):
        places.leave(ALICE, holder)
    assert len(places) == 0 and places._by_user == {}


def test_the_oldest_of_the_same_device_gives_way() -> None:
    places, holders = filled("A", "B", "A", "B")
    for number in (1, 3):
        new = Holder("B")
        assert places.has_room(ALICE, "B") and places.take(ALICE, new, new)
        assert [each.expired for each in holders] == [False, True, False, number == 3]
        assert len(places) == 4
    places.leave(ALICE, holders[1])  # as it does in time
    assert len(places) == 4


def test_nobody_gives_way_to_who_names_no_device() -> None:
    places, holders = filled(None, "A")
    late = Holder(None)
    assert not places.has_room(ALICE, None) and not places.take(ALICE, late, late)
    assert not any(each.expired for each in holders)


def test_who_gives_way_may_take_and_leave_at_once() -> None:
    """A poll that is answered leaves, and the client's next one may have come already."""
    places, again = Places(2), Holder("B")

    def answered() -> None:
        places.leave(ALICE, first)
        assert places.take(ALICE, again, again)

    first = Holder("A", answered)
    second, new = Holder("B"), Holder("A")
    assert all(places.take(ALICE, each, each) for each in (first, second, new))
    assert first.expired and second.expired and not new.expired
    assert set(places._by_user[ALICE]) == {new, again}


def test_a_listener_that_waits_is_counted_and_others_are_not() -> None:
    listeners = Listeners()
    waiting = [listeners.open(ALICE) for _ in range(MOST + 1)]
    for listener in waiting[:MOST]:
        listener.wait()
    with pytest.raises(LimitExceeded) as refused:
        waiting[MOST].wait()
    assert refused.value.retry_after_ms > 0
    waiting[0].wake()
    waiting[0].wait()  # on the place it has
    waiting[MOST].wake()
    assert waiting[MOST].wait().called, "no waiting is needed"
    waiting[0].close()
    assert not waiting[MOST].wait().called
    for listener in waiting:
        listener.close()
    assert len(listeners.places) == 0
