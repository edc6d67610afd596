# SPDX-License-Identifier: Apache-2.0
"""Runs one history from beginning to end, and tells it readably if a promise did not hold."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.sync_proof import program
from tests.sync_proof.devices import DeviceOnWire
from tests.sync_proof.program import History, Step
from tests.sync_proof.promises import check_history
from tests.sync_proof.transport import Http
from tests.sync_proof.world import World


class Runner:
    """Runs histories on one server, over connections that it keeps."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._http = Http(port)
        self._waiting = Http(port)
        self._threads = ThreadPoolExecutor(1)
        self.corners: Counter[str] = Counter()
        """What happened in all histories, by how often."""

    def close(self) -> None:
        """Give up the connections."""
        self._http.close()
        self._waiting.close()
        self._threads.shutdown()

    def run(self, history: History) -> None:
        """A history, and a look at everything in the end. A failure's notes say how it came about."""
        world = World(self._http, history)
        devices = [
            DeviceOnWire(world, self._http, self._port, device, token)
            for device, token in zip(history.devices, world.device_tokens, strict=True)
        ]
        told: list[str] = []
        try:
            for step in history.steps:
                world.go_on_typing()
                told.append(f"{step} …")
                outcome = self._step(world, devices, step)
                told[-1] = f"{step}: {outcome}"
                self.corners[f"{type(step).__name__} {outcome}"] += 1
            for number, device in enumerate(devices):
                world.go_on_typing()
                told.append(f"in the end, device {number} …")
                device.check_against_fresh_sync()
            for user in world.users:
                for log in world.rooms:
                    check_history(world, user, log, world.history(user, log))
        except Exception as error:
            error.add_note(_account(world, history, told, str(error)))
            raise
        finally:
            for device in devices:
                device.hang()
                self.corners.update(device.seen)

    def _step(self, world: World, devices: list[DeviceOnWire], step: Step) -> str:
        outcome = "done"
        match step:
            case program.Sync():
                device = devices[step.device % len(devices)]
                device.sync(step.limit, full_state=step.full_state, repeat=step.repeat)
            case program.Back():
                devices[step.device % len(devices)].go_back(step.tokens, step.limit)
            case program.Anew():
                devices[step.device % len(devices)].begin_anew(step.limit)
            case program.Await():
                device = devices[step.device % len(devices)]
                outcome = device.wait_for(step, self._waiting, self._threads)
            case program.Fill():
                devices[step.device % len(devices)].fill()
            case program.Hang():
                devices[step.device % len(devices)].hang()
            case _:
                outcome = world.carry_out(step)
                if isinstance(step, program.Own) and step.verb == "forget" and outcome == "done":
                    _forget(world, devices, step)
        return outcome


def _forget(world: World, devices: list[DeviceOnWire], step: program.Own) -> None:
    user = world.users[step.user % len(world.users)]
    for device in devices:
        if device.user_id == user:
            device.forget(world.rooms[step.room % len(world.rooms)].room_id)


def _account(world: World, history: History, told: list[str], what: str) -> str:
    """What broke, what was done, and what the rooms hold; users and events by their numbers."""
    lines = ["What did not hold:", f"  {what}", "Devices:"]
    lines += [f"  {number}: {device}" for number, device in enumerate(history.devices)]
    lines += ["Steps:", *(f"  {line}" for line in told)]
    for number, log in enumerate(world.rooms):
        lines.append(f"room{number}, forgotten by {log.forgotten}:")
        for index, event in enumerate(log.events):
            key = "" if event.state_key is None else f" [{event.state_key}]"
            gone = "" if event.redacted_at is None else f" (redacted by {event.redacted_at})"
            content = {k: v for k, v in event.content.items() if k not in ("msgtype", "displayname", "body")}
            shown = "" if event.type == "m.room.power_levels" else f" {content}"
            lines.append(f"  {index}: {event.type}{key} by {event.sender}{shown}{gone}")
    account = "\n".join(lines)
    for number, log in enumerate(world.rooms):
        for index, event in enumerate(log.events[1:], 1):
            account = account.replace(event.event_id, f"room{number}#{index}")
        account = account.replace(log.events[0].event_id, f"room{number}#0")
        account = account.replace(log.room_id, f"room{number}")
    for number, user in enumerate(world.users):
        account = account.replace(user, f"user{number}")
    return f"{account}\nTo run it again:\n{history!r}"


__all__ = ["Runner"]
