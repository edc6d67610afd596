# SPDX-License-Identifier: Apache-2.0
"""Numbers at the edge of what a database counts, names at the edge of what it keeps, and everybody at once."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.api.conftest import Arrive
from tests.api.wire import PATIENCE, Wire, check_error_form
from tests.api.world import V3, Person, World, segment
from tests.serving import Answer, ServerProcess

NUMBERS = ("0", "1", "-1", "00000001", "9223372036854775807", "9223372036854775808", "9" * 23)
AT_ONCE = 12


def bent(token: str) -> Iterator[str]:
    """A token with each of its numbers replaced by each of `NUMBERS`."""
    parts = re.split(r"(\d+)", token)
    for at, part in enumerate(parts):
        if part.isdigit():
            yield from ("".join([*parts[:at], number, *parts[at + 1 :]]) for number in NUMBERS)


def check_calm(answer: Answer) -> None:
    """An answer or a refusal, but no failure."""
    assert answer.status < 500, answer
    if answer.status >= 400:
        check_error_form(answer)


@pytest.mark.parametrize(
    "path",
    [
        "/sync?timeout=0&since=",
        "/events?timeout=0&from=",
        "/rooms/{roomId}/messages?dir=b&from=",
        "/rooms/{roomId}/messages?dir=f&from=",
        "/rooms/{roomId}/messages?dir=b&to=",
        "/rooms/{roomId}/members?at=",
        "/rooms/{roomId}/hierarchy?from=",
        "/publicRooms?since=",
        "/mutual_rooms?user_id=%40a:localhost&from=",
    ],
)
def test_tokens_of_times_that_never_were(world: World, path: str) -> None:
    """Before the beginning, after the end and beyond 64 bits: refused or harmless, and the next good token works."""
    place, _, query = path.partition("?")
    for token in {world.values["since"], world.values["token"]}:
        for wrong in bent(token):
            check_calm(world.me.call("GET", f"{world.path(place)}?{query}{segment(wrong)}"))
    assert world.me.syncs(world.values["since"])["next_batch"]


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_in_queries(world: World, number: str) -> None:
    for path in (
        "/sync?filter=",
        "/rooms/{roomId}/messages?dir=b&limit=",
        "/rooms/{roomId}/context/{eventId}?limit=",
        "/rooms/{roomId}/timestamp_to_event?dir=b&ts=",
        "/rooms/{roomId}/timestamp_to_event?dir=f&ts=",
        "/rooms/{roomId}/hierarchy?limit=",
        "/rooms/{roomId}/hierarchy?max_depth=",
        "/publicRooms?limit=",
        "/initialSync?limit=",
    ):
        place, _, query = path.partition("?")
        check_calm(world.me.call("GET", f"{world.path(place)}?{query}{number}"))
    check_calm(world.me.call("GET", f"/user/{segment(world.me.user_id)}/filter/{number}"))
    for section in ("timeline", "state"):
        inline = f'{{"room":{{"{section}":{{"limit":{number}}}}}}}'
        check_calm(world.me.call("GET", "/sync", query={"filter": inline}))


@pytest.mark.parametrize("length", [255, 256, 30_000])
def test_long_names(arrive: Arrive, length: int) -> None:
    """Kept, or refused by name; and whoever reads afterwards can."""
    person, name = arrive("verbose"), "x" * length
    room, me = person.creates(), segment(person.user_id)
    at = f"/rooms/{segment(room)}"
    for method, path, body in (
        ("PUT", f"{at}/send/m.room.message/{name}", {}),
        ("PUT", f"{at}/send/{name}/t", {}),
        ("PUT", f"{at}/state/org.example.x/{name}", {}),
        ("PUT", f"/user/{me}{at}/tags/{name}", {}),
        ("PUT", f"/user/{me}/account_data/{name}", {}),
        ("PUT", f"/devices/{person.account.device_id}", {"display_name": name}),
        ("PUT", f"/profile/{me}/displayname", {"displayname": name}),
        ("PUT", f"/profile/{me}/{name}", {name: 1}),
        ("PUT", f"/directory/room/%23{name}:localhost", {"room_id": room}),
        ("POST", "/createRoom", {"name": name, "topic": name, "room_alias_name": name}),
        ("POST", f"{at}/report", {"reason": name}),
        ("POST", "/register", {"username": name, "password": name, "auth": {"type": "m.login.dummy"}}),
        ("POST", "/user_directory/search", {"search_term": name}),
        ("PUT", f"/presence/{me}/status", {"presence": "online", "status_msg": name}),
    ):
        check_calm(person.call(method, path, body))
    assert room in person.syncs()["rooms"]["join"]


def all_at_once(server: ServerProcess, act: Callable[[Wire, int], Answer]) -> Counter[int]:
    """How often each status was answered to twelve clients who act at the same moment."""
    together, found = threading.Barrier(AT_ONCE), Counter[int]()

    def one(number: int) -> None:
        wire = Wire(server.port)
        together.wait(PATIENCE)
        answer = act(wire, number)
        check_calm(answer)
        found[answer.status] += 1
        wire.close()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    assert found.total() == AT_ONCE
    return found


def test_one_name_is_given_once(server: ServerProcess, arrive: Arrive) -> None:
    """Of an alias and of a user, however many ask at once."""
    person = arrive("founder")
    name = person.user_id[1:].partition(":")[0] + "x"
    register = {"username": name, "password": "a password", "auth": {"type": "m.login.dummy"}}
    found = all_at_once(server, lambda wire, _: wire.call("POST", f"{V3}/register", register))
    assert found == {200: 1, 400: AT_ONCE - 1}
    create = {"room_alias_name": name}
    found = all_at_once(
        server, lambda wire, _: wire.call("POST", f"{V3}/createRoom", create, token=person.token)
    )
    assert found == {200: 1, 400: AT_ONCE - 1}
    assert len(person.ok("GET", "/joined_rooms")["joined_rooms"]) == 1, (
        "who did not get the name made no room"
    )


def test_coming_and_going_at_once(server: ServerProcess, arrive: Arrive) -> None:
    """In whichever order they happen, every way to ask agrees on how it ended."""
    host, member = arrive("host"), arrive("member")
    room = host.creates(preset="public_chat")
    at = f"{V3}/rooms/{segment(room)}"
    verbs = ("join", "leave", "join", "forget")
    for _ in range(5):
        all_at_once(server, lambda wire, n: wire.call("POST", f"{at}/{verbs[n % 4]}", {}, token=member.token))
        joined = _is_joined(member, room)
        assert (
            member.user_id in host.ok("GET", f"/rooms/{segment(room)}/joined_members")["joined"]
        ) is joined
        assert (room in member.syncs()["rooms"].get("join", {})) is joined


def _is_joined(person: Person, room: str) -> bool:
    return room in person.ok("GET", "/joined_rooms")["joined_rooms"]


def test_one_last_look(server: ServerProcess, arrive: Arrive) -> None:
    """Logging out and closing an account from every side at once ends them once."""
    person = arrive("leaving")
    other = person.device()
    all_at_once(server, lambda wire, _: wire.call("POST", f"{V3}/logout", {}, token=other.token))
    assert other.call("GET", "/account/whoami").status == 401
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": person.user_id},
        "password": person.account.password,
    }
    found = all_at_once(
        server,
        lambda wire, _: wire.call("POST", f"{V3}/account/deactivate", {"auth": auth}, token=person.token),
    )
    assert found[200] >= 1
    assert person.call("GET", "/account/whoami").status == 401
