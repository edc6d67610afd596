# SPDX-License-Identifier: Apache-2.0
"""What sync promises: compares what a device came to believe with what is true, as soon as it has caught up.

- `check_shape`: of every response, whatever else happens.
- `check_caught_up`: the rooms' sections, timelines, state, summaries, receipts, typing and account data.
- `check_gap`: what a page of history gave is exactly what a limited timeline had left out.

`exact` is false where a device got several responses without the test knowing what had happened by each (a WebSocket):
then what may depend on the moment is left open, and what must not is still insisted on.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from tests.sync_proof.client import Arrival, Client, Gap, Progress, ReceiptKey, RoomView, nulls
from tests.sync_proof.oracle import MEMBER, VISIBILITY, Json, Logged, RoomLog, StateKey
from tests.sync_proof.program import Style
from tests.sync_proof.world import World

_LISTS = {
    "join": ("timeline", "ephemeral", "account_data"),
    "leave": ("timeline", "account_data"),
    "invite": ("invite_state",),
    "knock": ("knock_state",),
}
_SERVERS_OWN = ("m.push_rules",)
"""Account data that exists without being stored by a client."""


class Broken(AssertionError):
    """A promise that did not hold."""


def insist(holds: object, *what: object) -> None:
    """Raise Broken with a description unless it holds."""
    if not holds:
        raise Broken(" ".join(map(str, what)))


def allowed(kind: str, types: tuple[str, ...] | None, not_types: tuple[str, ...]) -> bool:
    """Whether a filter's types let an event pass."""
    if any(fnmatchcase(kind, pattern) for pattern in not_types):
        return False
    return types is None or any(fnmatchcase(kind, pattern) for pattern in types)


# Responses.


def check_shape(response: Json, user: str, style: Style) -> None:
    """No nulls, every list where clients look for it, the state under the name asked for, nobody else's data."""
    insist(not nulls(response), "nulls:", nulls(response))
    insist(isinstance(response.get("next_batch"), str), "no next_batch")
    for key in ("account_data", "presence", "to_device"):
        insist("events" in response.get(key, {"events": []}), key, "without events")
    own = list(response.get("account_data", {}).get("events", ()))
    after = {"": None, "use_state_after": "state_after"}.get(style.after, "org.matrix.msc4222.state_after")
    for section, parts in _LISTS.items():
        for room_id, update in response.get("rooms", {}).get(section, {}).items():
            for part in parts:
                insist("events" in update.get(part, {"events": []}), section, room_id, part, "without events")
            if section in ("join", "leave"):
                insist("events" in update.get("timeline", {}), section, room_id, "without timeline events")
                _check_state_name(update, after, (section, room_id))
            own += update.get("account_data", {}).get("events", ())
            for event in update.get("ephemeral", {}).get("events", ()):
                if event["type"] == "m.receipt":
                    _check_receipts(event, user)
    for event in own:
        insist(event["content"].get("owner", user) == user, "account data of another:", event)


def _check_state_name(update: Json, after: str | None, where: object) -> None:
    names = {"state", "state_after", "org.matrix.msc4222.state_after"} & update.keys()
    if after is None:
        insist(names <= {"state"}, where, "has", names)
    else:
        insist(names == {after}, where, "has", names, "not", after)
    insist(all("events" in update[name] for name in names), where, names, "without events")


def _check_receipts(event: Json, user: str) -> None:
    for kinds in event["content"].values():
        insist(set(kinds) <= {"m.read", "m.read.private"}, "receipts of other types:", kinds)
        insist(set(kinds.get("m.read.private", {})) <= {user}, "private receipts of others:", kinds)


# Devices that have caught up.


def check_caught_up(world: World, client: Client, *, exact: bool) -> None:
    """Everything that holds once a device has been told all that happened so far. Takes its arrivals."""
    excluded = {world.rooms[number % len(world.rooms)].room_id for number in client.style.not_rooms}
    for log in world.rooms:
        arrivals = client.arrivals.pop(log.room_id, [])
        view = client.rooms.get(log.room_id)
        if log.room_id in excluded:
            insist(view is None, "a room that the filter leaves out:", log.room_id)
            continue
        _RoomPromises(world, client, log, arrivals, exact=exact).check(view)
    insist(not client.arrivals, "unknown rooms:", list(client.arrivals))
    _check_account_data(world, client)
    _check_presence(world, client)
    client.checked_at = world.clock


def _check_account_data(world: World, client: Client) -> None:
    truth = {
        kind: content
        for (user, room_id, kind), content in world.truth.data.items()
        if user == client.user_id and not room_id
    }
    known = {kind: content for kind, content in client.account_data.items() if kind not in _SERVERS_OWN}
    insist(known == truth, "global account data is", known, "for", truth)


def _check_presence(world: World, client: Client) -> None:
    """Nobody is heard of who never shared a room with the user."""
    met = {client.user_id}
    for log in world.rooms:
        mine = log.stays(client.user_id, len(log.events))
        for user in world.users:
            for start, end in log.stays(user, len(log.events)):
                if any((e is None or start < e) and (end is None or s < end) for s, e in mine):
                    met.add(user)
    for event in client.presence:
        insist(event["sender"] in met, "presence of a stranger:", event)
    client.presence.clear()


class _RoomPromises:
    """One room and one device."""

    def __init__(
        self, world: World, client: Client, log: RoomLog, arrivals: list[Arrival], *, exact: bool
    ) -> None:
        self.world = world
        self.client = client
        self.style = client.style
        self.user = client.user_id
        self.log = log
        self.arrivals = arrivals
        self.exact = exact
        self.now = len(log.events)
        self.membership = log.membership(self.user, self.now)
        self.always_ignored, self.once_ignored = world.truth.ignored_by(
            self.user, world.clock if exact else client.checked_at, world.clock
        )

    def check(self, view: RoomView | None) -> None:
        """All promises."""
        self._check_section(view)
        for arrival in self.arrivals:
            for event in arrival.state:
                self._check_event(event, timeline=False)
            for event in arrival.events:
                self._check_event(event, timeline=True)
            self._check_state_is_state(arrival)
            if self.style.lazy != "no":
                self._check_senders_known(arrival)
        ended = self._check_timeline()
        if view is None:
            return
        if self.membership == "join":
            self._check_state(view, self.now)
            self._check_summary(view)
            self._check_receipts(view)
            typing = set(self.world.truth.typing.get(self.log.room_id, ()))
            self.insist(view.typing == typing, "typing are", view.typing, "for", typing)
            self._check_room_data(view)
        elif ended is not None:
            self._check_state(view, ended + 1)

    def insist(self, holds: object, *what: object) -> None:
        """As `insist`, saying whose and which room."""
        insist(holds, f"{self.user} in {self.log.room_id}:", *what)

    def _check_section(self, view: RoomView | None) -> None:
        section = "" if view is None else view.section
        if self.membership in ("leave", "ban"):
            self.insist(section in ("", "leave"), "still in section", section)
            return
        if self.membership == "invite":
            inviter = self.log.state(self.now)[MEMBER, self.user].sender
            if inviter in self.world.truth.ever_ignored(self.user):
                return  # whether it was told depends on when
        self.insist(section == self.membership, "in section", section or "none", "not", self.membership)
        if self.membership in ("invite", "knock"):
            assert view is not None
            mine = [e for e in view.stripped if e["type"] == MEMBER and e["state_key"] == self.user]
            self.insist(
                len(mine) == 1 and mine[0]["content"]["membership"] == self.membership,
                "stripped state lacks the user:",
                view.stripped,
            )
            for event in view.stripped:
                self._check_stripped(event)

    def _check_stripped(self, event: Json) -> None:
        """Stripped state is four keys, and was the room's state at some time."""
        self.insist({"type", "state_key", "sender", "content"} <= event.keys(), "not stripped state:", event)
        key = event["type"], event["state_key"]
        self.insist(any(e.key == key for e in self.log.events), "no such state:", event)

    # Events.

    def _check_event(self, event: Json, *, timeline: bool) -> None:
        """An event as it is shown: redacted if it is, with the membership of the reader then, and what it replaced."""
        index = self.log.index.get(event["event_id"])
        self.insist(index is not None, "an event that never was:", event)
        assert index is not None
        logged = self.log.events[index]
        self.insist(event["type"] == logged.type and event.get("state_key") == logged.state_key, event)
        unsigned = event.get("unsigned", {})
        redacted = "redacted_because" in unsigned
        truly = self.log.redacted(logged, self.now)
        self.insist(redacted <= truly and (redacted or not truly or not self.exact), "redacted?", event)
        if redacted and event["type"] in ("m.room.message", "m.room.name", "m.room.topic", "org.example.a"):
            self.insist(event["content"] == {}, "not redacted:", event)
        elif not redacted:
            self.insist(event["content"] == logged.content, event, "had", logged.content)
        self._check_unsigned(logged, unsigned, event, timeline=timeline)

    def _check_unsigned(self, logged: Logged, unsigned: Json, event: Json, *, timeline: bool) -> None:
        then = logged.memberships.get(self.user, "leave")
        if logged.key == (MEMBER, self.user):
            then = logged.content["membership"]
        self.insist(unsigned.get("membership", then) == then, "membership then was", then, event)
        if logged.key is None:
            return
        replaced = logged.before.get(logged.key)
        if replaced is None or not self.log.visible(self.user, self.log.index[replaced.event_id], self.now):
            self.insist("prev_content" not in unsigned, "what it replaced is not for this user:", event)
        elif not self.log.redacted(logged, self.now) and not self.log.redacted(replaced, self.now):
            if "prev_content" not in unsigned and not (timeline and self.exact):
                return  # `state` is no history; and what may be seen now may not have been for this user then
            self.insist(unsigned.get("prev_content") == replaced.content, "it replaced", replaced, event)

    def _check_state_is_state(self, arrival: Arrival) -> None:
        """Each event of `state` is the room's state where the timeline starts, of `state_after` where it ends.

        A client may not be told of a state event in its timeline, and need its outcome all the same; then it is here.
        """
        if self.style.timeline_types or self.style.timeline_not_types or self.style.timeline_not_senders:
            return  # then `state` tells of the state events that were filtered out of the timeline, too
        if self.once_ignored or not arrival.events:
            return
        index = self.log.index
        if not self.style.after:
            first = index[arrival.events[0]["event_id"]]
            state = self.log.events[first].before
            ends = [end for _, end in self.log.stays(self.user, self.now) if end is not None and end < first]
            if arrival.section == "leave" and ends and self._is_mere_farewell(arrival, arrival.events[0]):
                state = self.log.state(ends[-1] + 1)
        elif self.exact and arrival.section == "join":
            state = self.log.state(self.now)
        else:
            return
        for event in arrival.state:
            there = state.get((event["type"], event["state_key"]))
            if not self.log.visible(self.user, index[event["event_id"]], self.now):
                continue  # state of the timeline's stretch that the user may not see happen
            if there is not None and not self.log.visible(self.user, index[there.event_id], self.now):
                continue  # nor is it told where within such a stretch the timeline starts
            self.insist(
                there is not None and there.event_id == event["event_id"], "was not state then:", event
            )

    def _check_senders_known(self, arrival: Arrival) -> None:
        """Lazy loading: whoever's event is shown has a member event, sent before or with it."""
        sent = {event["state_key"] for event in arrival.state if event["type"] == MEMBER}
        for event in arrival.events:
            if event["type"] == MEMBER:
                sent.add(event["state_key"])
            sender = event["sender"]
            before = self.log.events[self.log.index[event["event_id"]]].before
            if (MEMBER, sender) not in before or self._is_mere_farewell(arrival, event):
                continue
            known = sent if self.style.lazy == "redundant" else sent | arrival.members_known
            self.insist(sender in known, "no member event for the sender of", event)

    def _is_mere_farewell(self, arrival: Arrival, event: Json) -> bool:
        """Whether it ended no stay, but an invite or a ban, or the room was forgotten: it comes with no state."""
        index = self.log.index[event["event_id"]]
        ended = {end for _, end in self.log.stays(self.user, self.now)}
        mere = index not in ended or index < self.log.forgotten.get(self.user, 0)
        last = event is arrival.events[-1]  # before that it is history, shown for the sake of a later stay
        return arrival.section == "leave" and last and mere and self._is_farewell(index)

    # Timelines.

    def _check_timeline(self) -> int | None:
        """Each visible event once and in order, gaps noted. Returns where a stay ended whose end was told."""
        progress = self.client.progress.setdefault(self.log.room_id, Progress())
        low = progress.upto
        ends = [end for _, end in self.log.stays(self.user, self.now) if end is not None and end >= low]
        forgotten = self.log.forgotten.get(self.user, 0)
        if self.membership == "join":
            high = self.now
        else:
            began = 0 if self.style.include_leave else self.client.began.get(self.log.room_id, 0)
            high = ends[-1] + 1 if ends and ends[-1] >= max(forgotten, began) else low
        visible = list(self.log.visible_between(self.user, low, high, self.now))
        may = {i for i in visible if self._passes(self.log.events[i], self.always_ignored)}
        must = {i for i in visible if self._passes(self.log.events[i], self.once_ignored)}
        seen = self._walk(progress, low, high, may)
        told = self.membership == "join" or any(a.section == "leave" for a in self.arrivals)
        if told or self.membership in ("leave", "ban"):
            reached = high
        else:  # invited again, say, before the end of the stay could be told
            reached = max(seen, default=low - 1) + 1
        gaps = [gap for gap in self.client.gaps if gap.room_id == self.log.room_id]
        missing = {i for i in must - seen if i < reached and not any(gap.low <= i < gap.high for gap in gaps)}
        self.insist(not missing, "never arrived:", [self.log.events[i].event_id for i in sorted(missing)])
        progress.upto = max(low, reached)
        if self.membership == "join" or not told or high == low:
            return None
        return high - 1

    def _passes(self, event: Logged, ignored: Iterable[str]) -> bool:
        return passes(event, self.style, self.world.users, ignored)

    def _walk(self, progress: Progress, low: int, high: int, may: set[int]) -> set[int]:
        """Go through the arrivals in order; returns the indexes that arrived."""
        seen: set[int] = set()
        position = low
        limits: list[tuple[Arrival, int]] = []
        for arrival in self.arrivals:
            # A mere farewell is news, not history: it comes again in its place if the user joins once more.
            history = [event for event in arrival.events if not self._is_mere_farewell(arrival, event)]
            indexes = [self.log.index[event["event_id"]] for event in history]
            if arrival.limited:
                limits = [(arrival, position)]  # one that nothing came after is part of this one
            for index in indexes:
                event = self.log.events[index]
                self.insist(index in may, "not to be shown, or for the second time:", index, event.event_id)
                self.insist(index >= position, "out of order:", index, event.event_id)
                limits = self._close(limits, index)
                seen.add(index)
                position = index + 1
        self._close(limits, high)
        return seen

    def _close(self, limits: list[tuple[Arrival, int]], high: int) -> list[tuple[Arrival, int]]:
        for arrival, low in limits:
            self.insist(arrival.prev_batch, "a limited timeline without prev_batch")
            self.client.gaps.append(
                Gap(self.log.room_id, arrival.prev_batch, arrival.joined_since, low, high)
            )
        return []

    def _is_farewell(self, index: int) -> bool:
        """Whether the event says why the room is in `leave`, to one who may see no other."""
        event = self.log.events[index]
        return event.key == (MEMBER, self.user) and event.content["membership"] in ("leave", "ban")

    # State.

    def _check_state(self, view: RoomView, now: int) -> None:
        """The state is the room's, as far as the device asked for it."""
        mine = (MEMBER, self.user)
        out = now != self.now or self.membership != "join"
        truth = {
            key: entry
            for key, entry in self.log.state(now).items()
            if allowed(key[0], None, self.style.not_state) and not (out and key == mine)
        }
        known = {key: event for key, event in view.state.items() if key in truth}
        extra = {
            key
            for key in view.state
            if key not in truth and allowed(key[0], None, self.style.not_state) and key != mine
        }
        self.insist(not extra, "state that is not the room's:", extra)
        lacking = truth.keys() - known.keys()
        if self.style.lazy != "no":
            lacking = {key for key in lacking if key[0] != MEMBER or key == mine}
        self.insist(not lacking, "state is lacking:", lacking)
        wrong = {key for key, event in known.items() if event["event_id"] != truth[key].event_id}
        self.insist(not wrong, "state is out of date:", wrong)
        if not out:
            self._check_redacted_state(truth, known)

    def _check_redacted_state(self, truth: dict[StateKey, Logged], known: dict[StateKey, Json]) -> None:
        style = self.style
        if style.timeline_types or style.timeline_not_types or style.timeline_not_senders:
            return  # the device has asked not to hear of some redactions
        if self.world.truth.ever_ignored(self.user):
            return
        for key, event in known.items():
            redacted = "redacted_because" in event.get("unsigned", {})
            self.insist(redacted == self.log.redacted(truth[key], self.now), "redacted?", event)

    # What stands beside the events.

    def _check_summary(self, view: RoomView) -> None:
        for key, membership in (("m.joined_member_count", "join"), ("m.invited_member_count", "invite")):
            count = self.log.count(membership, self.now)
            self.insist(view.summary.get(key) == count, key, "is", view.summary.get(key), "for", count)
        if self.log.named(self.now):
            return
        must, may = self.log.heroes(self.user, self.now)
        heroes = set(view.summary.get("m.heroes", ()))
        self.insist(must <= heroes <= may, "heroes are", heroes, "for", must)
        if self.style.lazy != "no":
            unknown = {user for user in heroes if (MEMBER, user) not in view.state}
            self.insist(not unknown, "no member events for heroes:", unknown)

    def _check_receipts(self, view: RoomView) -> None:
        ignored = self.world.truth.ever_ignored(self.user)
        events = self.log.events
        truth: dict[ReceiptKey, str] = {
            (user, kind, thread): events[index].event_id
            for (room_id, user, kind, thread), index in self.world.truth.receipts.items()
            if room_id == self.log.room_id
            and kind != "m.fully_read"
            and (kind == "m.read" or user == self.user)
            and user not in ignored
        }
        known = {key: event_id for key, event_id in view.receipts.items() if key[0] not in ignored}
        self.insist(_plain(known) == _plain(truth), "receipts are", known, "for", truth)

    def _check_room_data(self, view: RoomView) -> None:
        if self.user in self.log.forgotten:
            return
        truth = {
            kind: content
            for (user, room_id, kind), content in self.world.truth.data.items()
            if user == self.user and room_id == self.log.room_id
        }
        self.insist(view.account_data == truth, "account data is", view.account_data, "for", truth)


def _plain(receipts: dict[ReceiptKey, str]) -> dict[ReceiptKey, str]:
    """Without a thread's receipts where the unthreaded one of the same user and type stands at the same event."""
    return {
        (user, kind, thread): event_id
        for (user, kind, thread), event_id in receipts.items()
        if not thread or receipts.get((user, kind, "")) != event_id
    }


def passes(event: Logged, style: Style, users: list[str], ignored: Iterable[str]) -> bool:
    """Whether a timeline of that style shows the event to one who ignores those users."""
    if event.state_key is None and event.sender in ignored:
        return False
    if event.sender in {users[number] for number in style.timeline_not_senders}:
        return False
    return allowed(event.type, style.timeline_types, style.timeline_not_types)


# Gaps.


def check_gap(world: World, client: Client, gap: Gap, events: list[Json]) -> None:
    """The events, newest first, that paging back from a limited timeline gave: the gap, and nothing twice."""
    log = world.log(gap.room_id)
    now = len(log.events)
    ignored, _ = world.truth.ignored_by(client.user_id, world.clock, world.clock)
    wanted = [
        index
        for index in log.visible_between(client.user_id, gap.low, gap.high, now)
        if passes(log.events[index], client.style, world.users, ignored)
    ]
    found = [log.index[event["event_id"]] for event in reversed(events)]
    # What came after a stay (an invite, say) is not of the gap, but may lie behind the same `prev_batch`.
    found = [index for index in found if index < gap.high or not log.visible(client.user_id, index, now)]
    insist(found == wanted, f"{client.user_id} in {gap.room_id}: the gap {gap} gave", found, "not", wanted)


# History.


def check_history(world: World, user: str, log: RoomLog, page: list[Json] | None) -> None:
    """All that `/messages` shows a user of a room, newest first: what they may see, neither more nor less.

    A former member sees nothing of what came after they left, unless the room is open to all.

    None stands for a refusal: right for those whom the room never let in, or who forgot it.
    """
    now = len(log.events)
    stays = [end for _, end in log.stays(user, now) if end is None or end >= log.forgotten.get(user, 0)]
    setting = log.state(now).get((VISIBILITY, ""))
    open_to_all = setting is not None and setting.content.get("history_visibility") == "world_readable"
    if page is None:
        insist(not stays and not open_to_all, f"{user} is refused the history of {log.room_id}")
        return
    insist(stays or open_to_all, f"{user} is shown the history of {log.room_id}")
    ignored, _ = world.truth.ignored_by(user, world.clock, world.clock)
    last = stays[-1] if stays else None
    end = now if open_to_all or last is None else last + 1
    wanted = [
        index
        for index in log.visible_between(user, 0, end, now)
        if passes(log.events[index], Style(), world.users, ignored)
    ]
    found = [log.index[event["event_id"]] for event in reversed(page)]
    insist(found == wanted, f"{user} is shown", found, "not", wanted, f"of {log.room_id}")
