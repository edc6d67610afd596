# SPDX-License-Identifier: Apache-2.0
"""Lines by which processes tell each other of users of other servers who come and go."""

from __future__ import annotations

import orjson
import pytest

from homeserver.stream import Stream
from homeserver.stream.remote_members import line_of, read
from storage.stream import MOST_IN_A_LINE
from tests.stream.test_stream import Noting


def test_what_is_written_is_read() -> None:
    users = ["@one:there", "@two\n\N{PARTY POPPER}:there"]
    lines = [line_of(7, users), line_of(8, ["@three:elsewhere"])]
    assert "\n" not in "".join(lines)
    assert read(lines) == ([*users, "@three:elsewhere"], [])


@pytest.mark.parametrize("number", [1_000, 100_000])
def test_of_very_many_only_the_room_is_told(number: int) -> None:
    line = line_of(7, [f"@{each}:there" for each in range(number)])
    assert len(line) < 50
    assert read([line]) == ([], [7])


def test_a_line_is_as_long_as_it_may_be() -> None:
    """In bytes, whatever the letters."""
    for letters in range(7_000, 8_000):
        line = line_of(7, ["@" + "\N{LATIN SMALL LETTER U WITH DIAERESIS}" * (letters // 2)])
        assert len(line.encode()) <= MOST_IN_A_LINE


def test_a_commit_says_who_came_and_went() -> None:
    """Among the lines about rooms, whose readers never see it: it belongs to none."""
    stream, noting = Stream(origin="here", position=10), Noting()
    stream.subscribe(noting)
    lines = [line_of(7, ["@one:there"]), "8 1 0 [1,[1],[]]", line_of(9, ["@x:there"] * 1_000)]
    stream.heard_part("\n".join(["there", *lines]))
    for before in (10, 11):
        told = {"origin": "there", "before": before, "count": 1, "rooms": [7, 8, 9], "users": []}
        stream.heard(orjson.dumps(told).decode())
    first, second = noting.changes
    assert (list(first.remote), list(first.crowded)) == (["@one:there"], [9])
    assert list(first.news) == [8]
    assert not (second.remote or second.crowded)


def test_a_process_of_a_release_before_passes_over_it() -> None:
    """It takes for a list what begins with a brace, and for a room's what begins with its key."""
    line = line_of(7, ["@one:there"])
    assert not line.startswith("{")
    assert int(line[: line.index(" ")]) < 0
