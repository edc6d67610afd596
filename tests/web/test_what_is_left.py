# SPDX-License-Identifier: Apache-2.0
"""What a request leaves behind when it is over: nothing that only Python's collector would find."""

from __future__ import annotations

import gc
import types
from collections.abc import Iterator

import pytest
from twisted.internet.defer import Deferred

from homeserver.errors import Forbidden
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import ROOT, Auth, Route
from tests.reactor import run
from tests.web.loopback import Loopback, request_bytes

TIMES = 20


class Polls:
    """Long-polls that nothing ever wakes."""

    def __init__(self) -> None:
        self.entered: Deferred[None] = Deferred()
        self.ended: Deferred[None] = Deferred()

    async def wait(self, _request: MatrixRequest) -> Reply:
        self.entered.callback(None)
        try:
            await Deferred()
        finally:
            self.ended.callback(None)
        return {}

    async def refuse(self, _request: MatrixRequest) -> Reply:
        raise Forbidden("No.")


@pytest.fixture
def polls() -> Polls:
    return Polls()


@pytest.fixture
def server(polls: Polls) -> Iterator[Loopback]:
    loopback = Loopback(
        (
            Route("GET", "/wait", polls.wait, under=ROOT, auth=Auth.NONE, abandon=True),
            Route("GET", "/refuse", polls.refuse, under=ROOT, auth=Auth.NONE),
        )
    )
    yield loopback
    run(loopback.stop())


@pytest.fixture
def found() -> Iterator[list[object]]:
    """What the collector finds, once it is asked, of what is made from here on."""
    gc.collect()
    gc.freeze()  # what earlier tests made may still be in use by something that ends only now
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield gc.garbage
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()
    gc.unfreeze()


def ours(found: list[object]) -> list[object]:
    """What of it belongs to the server: its objects, and what its functions were in the middle of."""
    gc.collect()
    return [
        each
        for each in found
        if type(each).__module__.startswith("homeserver.")
        or (isinstance(each, types.CoroutineType) and "homeserver" in each.cr_code.co_filename)
        or (isinstance(each, types.FrameType) and "homeserver" in each.f_code.co_filename)
    ]


async def test_a_poll_that_is_hung_up_on_leaves_nothing(
    server: Loopback, polls: Polls, found: list[object]
) -> None:
    for _ in range(TIMES):
        polls.entered, polls.ended = Deferred(), Deferred()
        connection = await server.connect()
        connection.send(request_bytes("GET", "/wait"))
        await polls.entered
        connection.drop()
        await polls.ended
    assert ours(found) == []


async def test_a_refused_request_leaves_nothing(server: Loopback, found: list[object]) -> None:
    for _ in range(TIMES):
        assert (await server.request("GET", "/refuse")).status == 403
    assert ours(found) == []
