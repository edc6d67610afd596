# SPDX-License-Identifier: Apache-2.0
"""The counted operations between servers: taking a transaction in, and passing a message on.

The other server is `scripts/benchmarks`' sender, which has a key and signs, over TLS on the loopback; what it sends is
signed before the counting begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from scripts.benchmarks.federation.sender import VERSION, Sender
from scripts.benchmarks.servers import Federated
from tests.costs.bench import Phase
from tests.costs.operations import ALL, CLIENT, TEXT, Repetition, Stage
from tests.costs.talking import one, serial
from tests.serving import free_port

EVENTS: Final = 20
"""Of one transaction."""


@dataclass(frozen=True, slots=True)
class Between:
    """Where the counted server is for other servers, and what all trust."""

    server_name: str
    federated: Federated


Prepare = Callable[[Stage, Between], Repetition]


def intake(stage: Stage, between: Between) -> Repetition:
    """A transaction of twenty messages, upon one another."""
    sender, room_id = _joined(stage, between)
    state = stage.backstage.run(sender.join(room_id))
    events = sender.messages(state, EVENTS * ALL)
    portions = iter([events[start : start + EVENTS] for start in range(0, len(events), EVENTS)])

    def repetition() -> Sequence[Phase]:
        transaction = sender.transaction(next(portions))

        async def send() -> int:
            answer = await sender.send(transaction)
            refused = [result for result in answer["pdus"].values() if result]
            assert refused == []
            return 0

        return [stage.backstage.phase(send)]

    return repetition


def outbound(stage: Stage, between: Between) -> Repetition:
    """A message of a user, until another server has it."""
    sender, room_id = _joined(stage, between)
    stage.backstage.run(sender.join(room_id))
    line = stage.line(stage.users(1)[0])

    def repetition() -> Sequence[Phase]:
        path = f"{CLIENT}/rooms/{room_id}/send/m.room.message/c{serial()}"
        sending = one(line, "PUT", path, {"msgtype": "m.text", "body": TEXT})
        expected = sender.received + 1

        def hear() -> int:
            heard = sending.hear()
            stage.backstage.run(sender.wait_received(expected))
            return heard

        return [Phase(sending.say, hear)]

    return repetition


def _joined(stage: Stage, between: Between) -> tuple[Sender, str]:
    """A sender, and a room made for it."""

    async def open_sender() -> Sender:
        sender = Sender(free_port(), between.server_name, between.federated)
        await sender.open()
        return sender

    sender = stage.backstage.run(open_sender())

    async def close() -> None:
        sender.close()

    stage.stack.callback(lambda: stage.backstage.run(close()))
    user = stage.users(1)[0]
    return sender, stage.backstage.run(user.create_room(preset="public_chat", room_version=VERSION))


OPERATIONS: Final[dict[str, Prepare]] = {"intake of 20 events": intake, "message to another server": outbound}
