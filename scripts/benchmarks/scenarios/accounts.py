# SPDX-License-Identifier: Apache-2.0
"""Scenarios about accounts: who am I, and new ones."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from scripts.benchmarks.measuring import Load, drive
from scripts.benchmarks.scenarios.shape import RunTrial
from scripts.benchmarks.world import World


@asynccontextmanager
async def whoami(world: World) -> AsyncIterator[RunTrial]:
    """Eight users ask who they are: what authentication and HTTP alone cost."""
    users = [user.twin() for user in await world.users(8)]
    path = "/_matrix/client/v3/account/whoami"

    async def run(seconds: float) -> Load:
        return await drive([partial(user.call, "GET", path) for user in users], seconds)

    yield run
    for user in users:
        user.close()


@asynccontextmanager
async def register(world: World) -> AsyncIterator[RunTrial]:
    """New users by shared secret, two at once, a nonce and a registration each.

    Both servers hash passwords as cheaply as they can be told to; the algorithms differ (bcrypt, Argon2id),
    so this line says what a registration costs, not which code is better.
    """
    connections = [world.anyone.twin() for _ in range(2)]

    async def run(seconds: float) -> Load:
        return await drive([partial(world.register, connection) for connection in connections], seconds)

    yield run
    for connection in connections:
        connection.close()
