# SPDX-License-Identifier: Apache-2.0
"""Clients find out, by each of the ways they look, whether there are calls and where."""

from __future__ import annotations

import pytest

from tests.api.wire import Wire, check_refusal
from tests.api.world import Person, World, segment
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


@pytest.mark.parametrize("version", ["11", "12"])
def test_members_of_a_private_room_enter_its_calls(server: ServerProcess, version: str) -> None:
    """By state of their own, under either kind of key, and nobody under another's user id but who has more power than
    they, to clear it; in a public room its administrators decide.
    """
    alice, bob = Person.arrives(server, "alice"), Person.arrives(server, "bob")
    private = alice.creates(preset="private_chat", invite=[bob.user_id], room_version=version)
    public = alice.creates(preset="public_chat", room_version=version)
    wire = Wire(server.port)

    def enter(room: str, state_key: str, who: Person = bob) -> int:
        path = f"/_matrix/client/v3/rooms/{segment(room)}/state/org.matrix.msc3401.call.member/{segment(state_key)}"
        return wire.call("PUT", path, {"application": "m.call"}, token=who.token).status

    for room in (private, public):
        bob.joins(room)
    assert enter(private, f"_{bob.user_id}_DEVICE_m.call") == 200
    assert enter(private, bob.user_id) == 200
    assert enter(private, alice.user_id) == 403
    assert enter(private, f"_{alice.user_id}_DEVICE_m.call") == 403
    assert enter(private, f"_{bob.user_id}_DEVICE_m.call", alice) == 200
    assert enter(public, f"_{bob.user_id}_DEVICE_m.call") == 403


def test_delayed_events_are_announced_with_their_limits(server: ServerProcess, world: World) -> None:
    """As clients ask before they rely on them."""
    wire = Wire(server.port)
    capabilities = wire.ok("GET", "/_matrix/client/v3/capabilities", token=world.me.token)["capabilities"]
    announced = capabilities["org.matrix.msc4140.delayed_events"]
    assert announced == {"max_delay_ms": 86_400_000, "max_scheduled": 100}
