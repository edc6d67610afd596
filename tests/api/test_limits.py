# SPDX-License-Identifier: Apache-2.0
"""The rate limits a server comes with: each brake stops who pulls it, says for how long, and nobody else.

Who pulls does it over several connections, of which other processes of the server may have some.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.api.wire import Wire, check_error_form
from tests.api.world import V3, Person, segment
from tests.serving import Answer, ServerProcess, usual_workers

LINES = 6


def check_braked(
    act: Callable[[int], Answer], burst: int, per_second: float, *, told: bool = False
) -> Answer:
    """`act` succeeds or is refused for other reasons `burst` times, and is braked as soon as more time must pass.

    However slow the machine is: what the seconds of the test allow is allowed. `told`: of what is taken at a process
    the others are told, which nobody waits for; until they heard it each has the whole of the burst.
    """
    begun = time.monotonic()
    most = burst * usual_workers() if told else burst
    for number in range(20 * burst):
        answer = act(number)
        if answer.status == 429:
            assert number >= burst, f"braked already at the {number}th"
            check_error_form(answer)
            assert answer.body["errcode"] == "M_LIMIT_EXCEEDED"
            wait_ms = answer.body["retry_after_ms"]
            assert type(wait_ms) is int and wait_ms > 0
            assert int(answer.headers["retry-after"]) * 1000 >= wait_ms
            return answer
        assert number <= most + per_second * (time.monotonic() - begun), f"not braked at the {number}th"
    raise AssertionError("never braked")


def check_still_braked(act: Callable[[int], Answer], use_up: Callable[[int], object] | None = None) -> None:
    """`act` is refused, at once or when what the time since the brake allows is used up, by `use_up` if not by it."""
    for number in range(20):
        if act(number).status == 429:
            return
        if use_up is not None:
            use_up(number)
    raise AssertionError("not braked any more")


def lines_of(person: Person) -> list[Person]:
    """The same device, on connections of its own."""
    return [Person(person.server, person.account) for _ in range(LINES)]


def test_messages_by_user(strict: ServerProcess) -> None:
    """A talker is braked in every room of theirs, and others talk on; what was refused is not sent."""
    talker, other = Person.arrives(strict, "talker"), Person.arrives(strict, "other")
    room, second = talker.creates(preset="public_chat"), talker.creates()
    other.joins(room)
    lines = lines_of(talker)
    sent: list[str] = []

    def send(number: int) -> Answer:
        """Mostly to nowhere: on a busy disk messages might take as long as the brake asks for."""
        place = room if number % 5 == 0 else "!nowhere:localhost"
        path = f"/rooms/{segment(place)}/send/m.room.message/{number}"
        answer = lines[number % LINES].call("PUT", path, {"body": str(number)})
        if answer.status != 429:
            assert answer.status == (200 if place == room else 403)
            sent.extend([str(number)] if place == room else [])
        return answer

    check_braked(send, 100, 5)
    refused = talker.call("PUT", f"/rooms/{segment(second)}/send/m.room.message/t", {"body": "again"})
    assert refused.status in {200, 429}
    other.says(room, "my turn")
    bodies = [event["content"].get("body") for event in other.messages(room)]
    assert "my turn" in bodies
    told = [body for body in bodies if body is not None and body.isdigit()]
    assert told and told == sent[-len(told) :]


@pytest.mark.parametrize(
    ("method", "path", "body", "limit"),
    [
        ("POST", "/createRoom", {}, (15, 0.1)),
        ("POST", "/join/%23none:localhost", {}, (15, 0.5)),
        ("POST", "/user_directory/search", {"search_term": "a"}, (20, 2.0)),
        ("POST", "/users/%40nobody:localhost/report", {"reason": "x"}, (10, 0.05)),
        ("POST", "/account/password", {"new_password": "better than before"}, (10, 0.1)),
    ],
)
def test_others_by_user(
    strict: ServerProcess, method: str, path: str, body: object, limit: tuple[int, float]
) -> None:
    """Each class has its own measure, and using one up leaves the others."""
    person = Person.arrives(strict, "busy")
    lines = lines_of(person)
    told = path == "/account/password"
    check_braked(lambda number: lines[number % LINES].call(method, path, body), *limit, told=told)
    assert person.call("GET", "/joined_rooms").status == 200
    assert Person.arrives(strict, "calm").call(method, path, body).status != 429


def test_logins_by_address(strict: ServerProcess) -> None:
    """Guessing names from one address; another address may still log in."""
    here, there = "127.0.0.21", "127.0.0.22"
    person = Person.arrives(strict, "honest")

    def guess(address: str, user: str, password: str) -> Answer:
        identifier = {"type": "m.id.user", "user": user}
        body = {"type": "m.login.password", "identifier": identifier, "password": password}
        return Wire(strict.port, address).call("POST", f"{V3}/login", body)

    check_braked(lambda number: guess(here, f"name{number}", "password"), 10, 0.1, told=True)
    check_still_braked(lambda _: guess(here, person.user_id, person.account.password))
    assert guess(there, person.user_id, person.account.password).status == 200


def test_failed_logins_by_account(strict: ServerProcess) -> None:
    """Guessing one account's password from many addresses: then even the right one must wait."""
    person = Person.arrives(strict, "victim")

    def guess(number: int, password: str = "wrong") -> Answer:
        wire = Wire(strict.port, f"127.0.1.{number + 1}")
        identifier = {"type": "m.id.user", "user": person.user_id}
        body = {"type": "m.login.password", "identifier": identifier, "password": password}
        return wire.call("POST", f"{V3}/login", body)

    check_braked(guess, 5, 0.05, told=True)
    check_still_braked(
        lambda number: guess(100 + number, person.account.password), lambda number: guess(150 + number)
    )
    assert person.call("GET", "/account/whoami").status == 200, "who is logged in stays so"


@pytest.mark.parametrize(("more", "limit"), [({}, (10, 1.0)), ({"auth": {}}, (5, 0.05))])
def test_registrations_by_address(
    strict: ServerProcess, more: dict[str, object], limit: tuple[int, float]
) -> None:
    """Asking what is needed, and trying it."""
    address = f"127.0.0.3{len(more)}"

    def register(number: int) -> Answer:
        return Wire(strict.port, address).call("POST", f"{V3}/register", {"username": f"n{number}", **more})

    check_braked(register, *limit, told="auth" in more)
    assert Wire(strict.port, "127.0.0.39").call("POST", f"{V3}/register", {"username": "n"}).status == 401


def test_an_address_cannot_be_made_up(strict: ServerProcess) -> None:
    """A proxy on this machine is believed what it appends, not what its client had written there before."""

    def register(number: int) -> Answer:
        told = {"X-Forwarded-For": f"192.0.2.{number}, 198.51.100.7", "Forwarded": f"for=192.0.2.{number}"}
        return Wire(strict.port).call("POST", f"{V3}/register", {"username": f"m{number}"}, headers=told)

    check_braked(register, 10, 1.0)
