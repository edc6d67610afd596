# SPDX-License-Identifier: Apache-2.0
"""What a user's devices, on all processes, amount to (client-server API, "Presence"). Pure but for being a record."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal, NamedTuple

from msgspec import Struct, field

State = Literal["online", "unavailable", "offline"]
STATES: Final[tuple[State, ...]] = ("offline", "unavailable", "online")
"""Weakest first: of several the strongest is shown."""

GONE_AFTER: Final = 30_000
"""Milliseconds without a request or an open connection until a device counts no more."""
IDLE_AFTER: Final = 300_000
"""Milliseconds without activity until an online user is unavailable."""


class Device(NamedTuple):
    """A device that was heard of: when, and what it asked to be shown as."""

    seen: int
    wanted: State


class View(NamedTuple):
    """What one process knows of a user's devices."""

    state: State
    last_active: int


class Choice(NamedTuple):
    """What the user set themselves, and when; the newest counts, whichever process heard it."""

    status_msg: str | None = None
    manual: State | None = None
    """Shown instead of `online` until they come back from being away, or do something."""
    set_at: int = 0


class Shown(NamedTuple):
    """What others are told."""

    state: State = "offline"
    status_msg: str | None = None
    displayname: str | None = None
    avatar_url: str | None = None


class Person(Struct):
    """One user. Times in milliseconds since 1970."""

    user_id: str
    remote: bool = False
    """Of another server, which says how they are: `choice` holds what it said last."""
    devices: dict[str | None, Device] = field(default_factory=dict)
    """Those of this process."""
    last_active: int = 0
    views: dict[str, View] = field(default_factory=dict)
    """By process; this one's own among them."""
    choice: Choice = field(default_factory=Choice)
    displayname: str | None = None
    avatar_url: str | None = None
    """Known since they last changed."""
    published: Shown = field(default_factory=Shown)
    published_at: int = 0
    serial: int = 0
    """Of the ephemeral clock, when it was published; 0: never."""
    told_elsewhere_at: int = 0
    """When other servers were told last, by this process."""
    repeat: bool = False
    """Publish though nothing changed: others see them for the first time."""

    def connected(self, now: int) -> State:
        """What the devices of this process amount to, idleness aside; those long gone are forgotten."""
        for device_id, device in list(self.devices.items()):
            if now - device.seen >= GONE_AFTER:
                del self.devices[device_id]
        return strongest(device.wanted for device in self.devices.values())

    def view(self, now: int) -> View:
        """What this process knows."""
        state = self.connected(now)
        if state == "online" and now - self.last_active >= IDLE_AFTER:
            state = "unavailable"
        return View(state, self.last_active)

    def keep_alive(self, now: int) -> None:
        """A connection is open: the device heard of last is there."""
        if self.devices:
            device_id, device = max(self.devices.items(), key=lambda item: item[1].seen)
            self.devices[device_id] = device._replace(seen=now)

    @property
    def state(self) -> State:
        """What all processes' views amount to, with what the user chose."""
        if self.remote:
            return self.choice.manual or "offline"
        state = strongest(view.state for view in self.views.values())
        if self.choice.manual is not None and state != "offline":
            return self.choice.manual
        return state

    @property
    def last_active_anywhere(self) -> int:
        return max((view.last_active for view in self.views.values()), default=self.last_active)

    def shown(self) -> Shown:
        """What others should be told."""
        return Shown(self.state, self.choice.status_msg, self.displayname, self.avatar_url)


def strongest(states: Iterable[State]) -> State:
    """What several devices or processes amount to; `offline` for none."""
    best = 0
    for state in states:
        best = max(best, STATES.index(state))
    return STATES[best]


def content(shown: Shown, last_active: int, now: int) -> dict[str, Any]:
    """The content of an `m.presence` event, and the answer to the question for it.

    `currently_active` holds for as long as the user is online: idleness ends both, so no update is needed in between.
    """
    told: dict[str, Any] = {"presence": shown.state}
    if last_active:
        told["last_active_ago"] = max(0, now - last_active)
    if shown.state == "online":
        told["currently_active"] = True
    for key, value in (
        ("status_msg", shown.status_msg),
        ("displayname", shown.displayname),
        ("avatar_url", shown.avatar_url),
    ):
        if value is not None:
            told[key] = value
    return told
