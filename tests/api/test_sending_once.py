# SPDX-License-Identifier: Apache-2.0
"""A transaction id makes a request safe to repeat: by the device that made it up, for what it was made up for."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from tests.api.conftest import Arrive
from tests.api.wire import PATIENCE, Wire
from tests.api.world import V3, Person, segment
from tests.serving import ServerProcess, serving


def texts(person: Person, room: str) -> list[str]:
    return [event["content"]["body"] for event in person.messages(room) if event["type"] == "m.room.message"]


def test_across_a_restart(tmp_path: Path) -> None:
    """Sends, redactions and log-ins outlive the process; the first content stands."""
    with serving(tmp_path) as server:
        person = Person.arrives(server, "steady")
        room = person.creates()
        event_id = person.says(room, "once", "t")
        path = f"/rooms/{segment(room)}/redact/{segment(person.says(room, 'bad'))}/r"
        redaction = person.ok("PUT", path, {})
        since = person.syncs()["next_batch"]
        server.restart()
        assert person.says(room, "twice", "t") == event_id
        assert person.ok("PUT", path, {}) == redaction
        assert person.news(since) == []
        assert person.event(room, event_id).body["content"]["body"] == "once"


def test_at_the_same_moment(server: ServerProcess, arrive: Arrive) -> None:
    """Twenty tries of one send on connections of their own give one event, whoever comes first."""
    person = arrive("hasty")
    room = person.creates()
    path = f"{V3}/rooms/{segment(room)}/send/m.room.message"
    for round_ in range(5):
        found: list[Any] = []
        together = threading.Barrier(20)

        def send(
            round_: int = round_, found: list[Any] = found, together: threading.Barrier = together
        ) -> None:
            wire = Wire(server.port)
            together.wait(PATIENCE)
            found.append(wire.ok("PUT", f"{path}/same{round_}", {"body": str(round_)}, token=person.token))
            wire.close()

        threads = [threading.Thread(target=send) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * PATIENCE)
        assert len(found) == 20
        assert len({answer["event_id"] for answer in found}) == 1
    assert texts(person, room) == [str(number) for number in range(5)]


def test_an_id_belongs_to_a_device_and_a_request(arrive: Arrive) -> None:
    """Client-server API, "Transaction identifiers": another device or another path makes another transaction."""
    person = arrive("twofold")
    other = person.device()
    room, second = person.creates(), person.creates()
    first = person.says(room, "from one", "t")
    assert person.says(room, "from one again", "t") == first
    event_ids = {first, other.says(room, "from another", "t"), person.says(second, "elsewhere", "t")}
    path = f"/rooms/{segment(room)}/send/org.example.other/t"
    event_ids.add(person.ok("PUT", path, {})["event_id"])
    assert len(event_ids) == 4
    assert texts(person, room) == ["from one", "from another"]


def test_an_id_outlives_the_token(server: ServerProcess, arrive: Arrive) -> None:
    """Logged in again on the same device, a client may still ask after what it sent."""
    person = arrive("returning")
    room = person.creates()
    first = person.says(room, "once", "t")
    again = person.wire.ok(
        "POST",
        f"{V3}/login",
        {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": person.user_id},
            "password": person.account.password,
            "device_id": person.account.device_id,
        },
    )
    person.token = again["access_token"]
    assert person.says(room, "once", "t") == first


def test_only_the_sender_s_device_is_told_the_id(arrive: Arrive) -> None:
    """It is how a client finds its own echo, and nobody else's business."""
    person, other = arrive("sender"), arrive("reader")
    room = person.creates(preset="public_chat")
    other.joins(room)
    event_id = person.says(room, "mine", "secret-id")
    for reader, expected in ((person, "secret-id"), (person.device(), None), (other, None)):
        timeline = reader.syncs()["rooms"]["join"][room]["timeline"]["events"]
        event = next(each for each in timeline if each["event_id"] == event_id)
        assert event.get("unsigned", {}).get("transaction_id") == expected
        assert reader.event(room, event_id).body.get("unsigned", {}).get("transaction_id") == expected


def test_a_refused_send_uses_no_id_up(arrive: Arrive) -> None:
    """What failed may be tried again under its id once it is allowed."""
    person, other = arrive("host"), arrive("guest")
    room = person.creates(preset="public_chat")
    path = f"/rooms/{segment(room)}/send/m.room.message/t"
    assert other.call("PUT", path, {"body": "x"}).status == 403
    other.joins(room)
    assert other.call("PUT", path, {"body": "x" * 70_000}).status == 413
    other.ok("PUT", path, {"body": "fits"})
    assert texts(person, room) == ["fits"]
