# SPDX-License-Identifier: Apache-2.0
"""What a message costs a process that did not write it: the counted server hears of a commit of another process.

The other process is an ordinary server on the same database, to which the sender talks. It shares no memory with the
counted one, as if it ran on another machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from scripts.benchmarks.client import Client
from tests.costs.bench import SERVER_NAME, Bench, Phase
from tests.costs.operations import LISTENERS, Repetition, Stage, drain, hear_all, poll, send, sending_of
from tests.costs.talking import one, serial
from tests.serving import serving

Prepare = Callable[[Stage, int], Repetition]
"""From a stage and the other process's port."""


@contextmanager
def another_process(bench: Bench) -> Iterator[int]:
    """Run it beside the counted one; gives its port."""
    directory = bench.directory / "other"
    (directory / "data").mkdir(parents=True)
    for key in (bench.directory / "data").glob("*.key"):
        shutil.copy2(key, directory / "data")
    settings = {"federation": {"enabled": False}}
    with serving(
        directory, database_url=bench.database_url, server_name=SERVER_NAME, settings=settings
    ) as other:
        yield other.port


def unheard(stage: Stage, port: int) -> Repetition:
    """A message into a room of 20 of whom nobody listens here."""
    room_id = stage.room_of(20, "Twenty")
    line = stage.line(_at(stage.users(1)[0], port))
    return lambda: [send(line, room_id)]


def polled(stage: Stage, port: int) -> Repetition:
    """A message that twenty long-polls wait for here; their next requests are not counted."""
    room_id = stage.room_of(LISTENERS + 1, "Listened to")
    first, *others = stage.users(LISTENERS + 1)
    sender, lines = stage.line(_at(first, port)), [stage.line(user) for user in others]
    tokens = [stage.backstage.run(stage.world.token_of(user)) for user in others]
    poll(lines, tokens)
    drain(sender, room_id, lines, tokens)
    waiting = [True]

    def repetition() -> Sequence[Phase]:
        if not waiting[0]:
            poll(lines, tokens)
        waiting[0] = False
        text = f"message {serial()}!"
        sending = one(sender, *sending_of(room_id, text))

        def hear() -> int:
            sending.hear()
            return hear_all(lines, tokens, text)

        return [Phase(sending.say, hear)]

    return repetition


def _at(client: Client, port: int) -> Client:
    """The same device, talking to another process."""
    return Client(client.host, port, user_id=client.user_id, device_id=client.device_id, token=client.token)


OPERATIONS: Final[dict[str, Prepare]] = {
    "another process's message": unheard,
    "the same, to 20 long-polls": polled,
}
