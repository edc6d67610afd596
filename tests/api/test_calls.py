# SPDX-License-Identifier: Apache-2.0
"""Clients find out, by each of the ways they look, whether there are calls and where."""

from __future__ import annotations

from tests.api.wire import Wire, check_refusal
from tests.api.world import Person, World
from tests.serving import ServerProcess

UNSTABLE = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports"
KEY = "org.matrix.msc4143.rtc_foci"


def test_group_calls_are_found(server: ServerProcess, world: World) -> None:
    """Endpoint, well-known document and flag agree; the document has one spelling of the key only."""
    wire = Wire(server.port)
    service = f"http://127.0.0.1:{server.port}/_matrix/client/unstable/org.lares.livekit"
    offered = [{"type": "livekit", "livekit_service_url": service}]
    for path in ("/_matrix/client/v1/rtc/transports", UNSTABLE):
        assert wire.ok("GET", path, token=world.me.token) == {"rtc_transports": offered}
    document = wire.ok("GET", "/.well-known/matrix/client")
    assert document[KEY] == offered
    assert "m.rtc_foci" not in document
    assert wire.ok("GET", "/_matrix/client/versions")["unstable_features"]["org.matrix.msc4143"] is True


def test_nothing_is_offered_where_nothing_is(strict: ServerProcess) -> None:
    """Unknown paths, by which clients look elsewhere; an empty answer they would keep for a day."""
    wire, somebody = Wire(strict.port), strict.register("caller")
    for path in ("/_matrix/client/v1/rtc/transports", UNSTABLE):
        check_refusal(wire.call("GET", path, token=somebody.access_token), 404, "M_UNRECOGNIZED")
    assert KEY not in wire.ok("GET", "/.well-known/matrix/client")
    assert "org.matrix.msc4143" not in wire.ok("GET", "/_matrix/client/versions")["unstable_features"]
    turn = wire.call("GET", "/_matrix/client/v3/voip/turnServer", token=somebody.access_token)
    check_refusal(turn, 404, "M_NOT_FOUND")


def test_an_openid_token_of_this_server_opens_its_calls_to_members(
    server: ServerProcess, world: World
) -> None:
    """As a whole: who is in the room gets as far as LiveKit, which is not there; who is not, gets nowhere."""
    wire = Wire(server.port)

    def ask(person: Person) -> tuple[int, str]:
        path = f"/_matrix/client/v3/user/{person.user_id}/openid/request_token"
        proof = wire.ok("POST", path, {}, token=person.token)
        body = {"room": world.values["room"], "openid_token": proof, "device_id": "DEVICE"}
        answer = wire.call("POST", "/_matrix/client/unstable/org.lares.livekit/sfu/get", body)
        return answer.status, answer.body["errcode"]

    assert ask(world.me) == (502, "M_UNKNOWN")
    assert ask(Person.arrives(server, "stranger")) == (403, "M_FORBIDDEN")
