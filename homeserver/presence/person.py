# SPDX-License-Identifier: Apache-2.0
"""What a user's devices, on all processes, amount to (client-server API, "Presence"). Pure but for being a record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


UNSEEN: Final = View("offline", 0)


class Choice(NamedTuple):
    """What the user set themselves, and when; the newest counts, whichever process heard it."""

    status_msg: str | None = None
    manual: State | None = None
    """Shown instead of `online` until they come back from being away, or do something."""
    set_at: int = 0


class Names(NamedTuple):
    """How the user is called since they changed it, and when; the newest count, as of choices."""

    displayname: str | None = None
    avatar_url: str | None = None
    set_at: int = 0


class Report(NamedTuple):
    """What a process has to say of one user."""

    view: View
    choice: Choice
    names: Names


class Shown(NamedTuple):
    """What others are told."""

    state: State = "offline"
    status_msg: str | None = None
    displayname: str | None = None
    avatar_url: str | None = None


class Person(Struct):
    """One user. Times in milliseconds since 1970.

    What others are told of them follows from what was heard of all processes, this one too, and changes only as that is
    heard, in the order in which all hear it. What this process has to say itself is beside it until then.
    """

    user_id: str
    remote: bool = False
    """Of another server, which says how they are: `choice` holds what it said last."""
    devices: dict[str | None, Device] = field(default_factory=dict)
    """Those of this process."""
    last_active: int = 0
    said: View | None = None
    """What this process has to say of its devices; None: nothing yet."""
    own_choice: Choice = Choice()
    own_names: Names = Names()
    """What this process learnt last, by itself."""
    views: dict[str, View] = field(default_factory=dict)
    """Heard, by process; this one's own among them."""
    choice: Choice = Choice()
    names: Names = Names()
    """Heard, the newest of all processes."""
    published: Shown = Shown()
    published_at: int = 0
    serial: int = 0
    """Of the ephemeral clock, when it was published; 0: never."""
    unwoken: bool = False
    """It was published, and those who wait were not woken for it yet."""
    woken_at: int = 0
    """When they were last."""
    told_elsewhere_at: int = 0
    """When other servers were told last, by this process."""

    def connected(self, now: int) -> State:
        """What the devices of this process amount to, idleness aside; those long gone are forgotten."""
        for device_id, device in list(self.devices.items()):
            if now - device.seen >= GONE_AFTER:
                del self.devices[device_id]
        return strongest(device.wanted for device in self.devices.values())

    def elsewhere(self, origin: str) -> State:
        """What the devices of processes other than this one, `origin`, amount to."""
        return strongest(view.state for process, view in self.views.items() if process != origin)

    def view(self, now: int) -> View:
        """What this process knows."""
        state = self.connected(now)
        if state == "online" and now - max(self.last_active, self.last_active_anywhere) >= IDLE_AFTER:
            state = "unavailable"
        return View(state, self.last_active)

    def keep_alive(self, now: int) -> None:
        """A connection is open: the device heard of last is there."""
        if self.devices:
            device_id, device = max(self.devices.items(), key=lambda item: item[1].seen)
            self.devices[device_id] = device._replace(seen=now)

    @property
    def chosen(self) -> Choice:
        """What the user set last, heard or not."""
        return max(self.choice, self.own_choice, key=lambda choice: choice.set_at)

    def choose(self, status_msg: str | None, manual: State | None, now: int) -> None:
        """They set that now, later than anything known of."""
        self.own_choice = Choice(status_msg, manual, max(now, self.chosen.set_at + 1))

    @property
    def report(self) -> Report:
        """What this process has to say."""
        names = max(self.names, self.own_names, key=lambda names: names.set_at)
        return Report(self.said or UNSEEN, self.chosen, names)

    def is_unsaid(self, origin: str) -> bool:
        """Whether something that this process, `origin`, has to say was not heard yet."""
        return (
            (self.said is not None and self.views.get(origin) != self.said)
            or self.own_choice.set_at > self.choice.set_at
            or self.own_names.set_at > self.names.set_at
        )

    def accept(self, origin: str, report: Report) -> None:
        """What a process says was heard."""
        self.views[origin] = report.view
        if report.choice.set_at > self.choice.set_at:
            self.choice = report.choice
        if report.names.set_at > self.names.set_at:
            self.names = report.names

    @property
    def last_active_anywhere(self) -> int:
        return max((view.last_active for view in self.views.values()), default=self.last_active)

    def shown(self) -> Shown:
        """What others should be told."""
        return self._shown(self.views, self.choice, self.names)

    def expected(self, origin: str) -> Shown:
        """The same, once what this process has to say is heard."""
        if not self.is_unsaid(origin):
            return self.shown()
        views = self.views if self.said is None else {**self.views, origin: self.said}
        return self._shown(views, self.chosen, self.report.names)

    def _shown(self, views: Mapping[str, View], choice: Choice, names: Names) -> Shown:
        if self.remote:
            state = choice.manual or "offline"
        else:
            state = strongest(view.state for view in views.values())
            if choice.manual is not None and state != "offline":
                state = choice.manual
        return Shown(state, choice.status_msg, names.displayname, names.avatar_url)


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
