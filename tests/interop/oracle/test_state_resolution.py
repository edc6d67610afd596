# SPDX-License-Identifier: Apache-2.0
"""State resolution gives what Synapse's gives, over thousands of rooms in conflict for each algorithm.

What differs is shrunk by hypothesis and belongs, shrunk, among the vectors of `tests/protocol/test_state_resolution`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homeserver.protocol.events import Event
from homeserver.protocol.hashes import event_id_of
from homeserver.protocol.state_resolution import EventsInMemory, resolve
from scripts.benchmarks.servers import Synapse
from tests.protocol.test_state_resolution_properties import History, States, histories

ROOMS = 2000


class Oracle:
    """A process that knows Synapse's resolution."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._questions: IO[str] = process.stdin
        self._answers: IO[str] = process.stdout

    def resolve(self, version: str, room_id: str, events: list[Event], states: States) -> dict[Any, str]:
        question = {
            "version": version,
            "room_id": room_id,
            "events": [[event.event_id, event.pdu] for event in events],
            "states": [[[*key, event_id] for key, event_id in state.items()] for state in states],
        }
        self._questions.write(json.dumps(question) + "\n")
        self._questions.flush()
        answer = json.loads(self._answers.readline())
        assert isinstance(answer, list), answer["error"]
        return {(kind, key): event_id for kind, key, event_id in answer}


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    """Synapse's interpreter, running for all questions."""
    Synapse.prepare(lambda _text: None)
    script = Path(__file__).with_name("synapse_resolver.py")
    with subprocess.Popen(
        [Synapse.ENVIRONMENT / "bin" / "python", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Oracle(process)
        assert process.stdin is not None
        process.stdin.close()


def with_real_ids(history: History) -> tuple[str, list[Event], States]:
    """The history as it would be on the wire: where ids are hashes they are, and so is everything that cites them."""
    version = history.room.version
    room_id = history.room.room_id
    ids: dict[str, str] = {}
    events: list[Event] = []
    for event in history.room.events.values():
        pdu = {"hashes": {"sha256": ""}, "signatures": {}, **event.pdu}
        if version.chooses_event_ids:
            ids[event.event_id] = pdu["event_id"] = event.event_id
        else:
            for key in ("prev_events", "auth_events"):
                pdu[key] = [ids[cited] for cited in pdu[key]]
            if "room_id" in pdu:
                pdu["room_id"] = room_id
            ids[event.event_id] = event_id_of(pdu, version)
            if event.type == "m.room.create" and version.room_id_is_create_hash:
                room_id = "!" + ids[event.event_id][1:]
        events.append(Event.from_pdu(pdu, version, ids[event.event_id]))
    states = [{key: ids[event_id] for key, event_id in state.items()} for state in history.states]
    return room_id, events, states


@pytest.mark.parametrize("version", ["1", "10", "12"])
def test_resolves_as_synapse_does(oracle: Oracle, version: str) -> None:
    """One version for each algorithm."""

    @settings(
        max_examples=ROOMS,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(history=histories(version))
    def compare(history: History) -> None:
        room_id, events, states = with_real_ids(history)
        ours = resolve(history.room.version, states, EventsInMemory({e.event_id: e for e in events}))
        assert ours == oracle.resolve(version, room_id, events, states)

    compare()


def test_would_notice_a_difference(oracle: Oracle) -> None:
    """The comparison is not empty: histories conflict, and an answer for other states is another answer."""
    answers = set()

    @settings(max_examples=50, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(history=histories("10"), which=st.booleans())
    def collect(history: History, which: bool) -> None:
        room_id, events, states = with_real_ids(history)
        kept = states if which else states[:1]
        answers.add(len(oracle.resolve("10", room_id, events, kept)))
        resolved = oracle.resolve("10", room_id, events, states)
        answers.add(all(resolved == state for state in states))

    collect()
    assert False in answers
