# SPDX-License-Identifier: Apache-2.0
"""Which filters are remembered, which are shared while they are in use, and how much of those there may be."""

from __future__ import annotations

import gc
import tracemalloc

import orjson
import pytest

from homeserver.errors import LimitExceeded
from homeserver.protocol.filters import FilterError, SyncFilter
from homeserver.sync.large_filters import MOST, MOST_BEFORE_LAST, MOST_OF_ONE
from homeserver.sync.wanted_filters import WantedFilters

ALICE = "@alice:localhost"


def definition(senders: int, server: str = "a.example") -> object:
    return {"room": {"timeline": {"senders": [f"@{n}:{server}" for n in range(senders)]}}}


class Uploaded:
    """Filters by id, and how often they were asked for."""

    def __init__(self, **definitions: object) -> None:
        self.definitions = definitions
        self.asked = 0

    async def get(self, user_id: str, filter_id: str) -> str:
        self.asked += 1
        return orjson.dumps(self.definitions[filter_id]).decode()


@pytest.mark.parametrize(("senders", "asked"), [(10, 1), (3_000, 2)])
async def test_an_uploaded_filter_is_remembered_unless_it_is_large(senders: int, asked: int) -> None:
    """It is the definition that takes memory, not its id."""
    uploaded = Uploaded(f1=definition(senders))
    filters = WantedFilters(uploaded)
    for _ in range(2):
        assert len((await filters.find(ALICE, "f1")).timeline.senders or ()) == senders
    assert uploaded.asked == asked


@pytest.mark.parametrize("inline", [False, True])
async def test_a_large_filter_is_shared_while_it_is_in_use(inline: bool) -> None:
    """By its id, or by its text; among the waits of one user, who are held to how much they use."""
    uploaded = Uploaded(f1=definition(3_000))
    text = orjson.dumps(definition(3_000)).decode() if inline else "f1"
    filters = WantedFilters(uploaded)
    waits = [await filters.find(ALICE, text) for _ in range(100)]
    assert all(each is waits[0] for each in waits)
    assert await filters.find("@bob:localhost", text) is not waits[0]
    assert uploaded.asked == (0 if inline else 2)
    assert filters._large.weight > 0
    del waits
    assert filters._large.weight == 0 and filters._large._used == {} and not filters._large._weights


async def test_large_filters_in_use_have_a_bound() -> None:
    """Of one user, and of all together; what is let go of makes room."""
    uploaded = Uploaded(**{f"f{n}": definition(3_000, f"s{n}.example") for n in range(50)})
    filters, used = WantedFilters(uploaded), dict[str, list[SyncFilter]]()
    for number in range(20):
        user_id = f"@u{number}:localhost"
        held = used[user_id] = []
        with pytest.raises(LimitExceeded) as refused:
            for filter_id in uploaded.definitions:
                held.append(await filters.find(user_id, filter_id))
        assert refused.value.retry_after_ms > 0
    weights = filters._large._weights
    assert MOST_OF_ONE * 0.8 < max(weights.values()) <= MOST_OF_ONE
    assert MOST_BEFORE_LAST * 0.95 < filters._large.weight <= MOST_BEFORE_LAST
    assert await filters.find("@u0:localhost", "f0") is used["@u0:localhost"][0], "it is there"
    small = await filters.find("@u19:localhost", '{"room":{"include_leave":true}}')
    assert small.include_leave
    del held, refused
    used.clear()
    assert filters._large.weight == 0
    await filters.find("@u19:localhost", "f0")


def list_of_rooms(count: int) -> object:
    return {"room": {"rooms": [f"!{n:018}:matrix.example.org" for n in range(count)]}}


async def test_a_few_users_leave_room_for_the_lists_of_others() -> None:
    """However much they ask for: many more are needed to fill what is left, and that is bounded too."""
    uploaded = Uploaded(bot=list_of_rooms(250), **{f"f{n}": definition(3_000, f"s{n}") for n in range(20)})
    filters, held = WantedFilters(uploaded), list[SyncFilter]()
    for number in range(20):
        with pytest.raises(LimitExceeded):
            for filter_id in uploaded.definitions:
                if filter_id != "bot":
                    held.append(await filters.find(f"@u{number}:localhost", filter_id))
    came = 0
    with pytest.raises(LimitExceeded):
        for came in range(10_000):
            held.append(await filters.find(f"@bot{came}:localhost", "bot"))
    assert came > 400
    assert MOST * 0.95 < filters._large.weight <= MOST


def largest() -> object:
    """Little text that takes much memory: short words in an alphabet of two bytes, in sets that have just grown."""
    words = [
        chr(0x430 + a) + chr(0x21 + b) for a in range(160) for b in range(64) if chr(0x21 + b) not in '"\\'
    ]
    return {
        "room": {
            "timeline": {"senders": words[:4916], "not_senders": words[4916:9832]},
            "state": {"senders": words[:308], "not_senders": words[-308:]},
        }
    }


async def test_the_largest_filter_is_admitted() -> None:
    assert 60_000 < len(orjson.dumps(largest())) < 65_536
    filters = WantedFilters(Uploaded(f1=largest(), f2=definition(3_000)))
    found = await filters.find(ALICE, "f1")
    assert found.timeline.senders and MOST_OF_ONE * 0.8 < filters._large.weight < MOST_OF_ONE * 2
    with pytest.raises(LimitExceeded):
        await filters.find(ALICE, "f2")
    other = await filters.find("@bob:localhost", "f2")
    assert other.timeline.senders


async def test_a_large_filter_that_makes_no_sense_weighs_nothing() -> None:
    uploaded = Uploaded(f1={"room": [0] * 10_000})
    filters = WantedFilters(uploaded)
    with pytest.raises(FilterError):
        await filters.find(ALICE, "f1")
    assert filters._large.weight == 0


async def memory_of(filters: WantedFilters) -> int:
    """Bytes by which the process grows with a filter."""
    gc.collect()
    tracemalloc.start()
    try:
        found = await filters.find(ALICE, "f1")
        gc.collect()
        assert found is not None
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def short_words(first: str) -> object:
    letters = [chr(ord(first) + number) for number in range(26)]
    words = [a + b + c for a in letters for b in letters for c in letters]
    return {"room": {"timeline": {"senders": words[: 60_000 // (3 * len(first.encode()) + 3)]}}}


def of_all_kinds() -> object:
    lists = {kind: [f"{kind}{n}*" for n in range(100)] for kind in ("types", "not_types")}
    sections = dict.fromkeys(("timeline", "state", "ephemeral", "account_data"), lists)
    return {"room": sections, "event_fields": [f"content.field{n}" for n in range(500)]}


@pytest.mark.parametrize(
    "definition",
    [
        *map(short_words, ["a", "\u0430", "\U0001d518"]),
        list_of_rooms(250),
        list_of_rooms(1_400),
        of_all_kinds(),
        {"room": {"rooms": ["a" * 60_000 + "\U0001d518"]}},
        {"room": {"rooms": ["abc"] * 9_000}},
        {"unknown": [1] * 9_000},
        largest(),
    ],
    ids=[
        "letters",
        "two bytes",
        "four bytes",
        "rooms",
        "more rooms",
        "all kinds",
        "long",
        "one",
        "nothing",
        "largest",
    ],
)
async def test_large_filters_take_what_they_are_said_to(definition: object) -> None:
    """Never more than is said, and about as much, be they many short words or a few long ones, in any alphabet."""
    filters = WantedFilters(Uploaded(f1=definition))
    await filters.find(ALICE, "f1")
    # What else the process makes at the time (threads of the test's own, caches) is counted with it.
    taken = [await memory_of(filters) for _ in range(5)]
    found = await filters.find(ALICE, "f1")
    assert found is not None
    assert min(taken) <= filters._large.weight < max(taken) * 1.25 + 1_000
