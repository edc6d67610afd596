# SPDX-License-Identifier: Apache-2.0
"""Push rules on a real Postgres: what reaches devices, what two processes change at once, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults

from homeserver.errors import InvalidParam, NotFound, TooLarge, Unknown
from homeserver.protocol.push_rules import DEFAULT_COMPILED, NO_RULES, PUSH_RULES, Kind, PushRule
from homeserver.push_rules import AccountDataWithRules
from storage.account_data import AccountDataStore
from storage.database import Database
from tests.push_rules.rules_fixture import Process
from tests.rooms.engine_fixture import ALICE, BOB


async def test_a_change_reaches_devices_as_account_data(database: Database) -> None:
    """Nothing is kept for who changed nothing; a change is one entry with all rules; a change of nothing is none."""
    process = await Process.open(database)
    rules, start = process.push_rules, process.engine.stream.position
    assert await rules.content(ALICE) == NO_RULES.content(ALICE)
    assert await rules.compiled(ALICE) is DEFAULT_COMPILED
    assert await process.account_data.get(ALICE, PUSH_RULES) is None

    await rules.put(ALICE, "content", PushRule("tea", ("notify",), pattern="tea"))
    position = process.engine.stream.position
    (entry,) = (await process.account_data.changed(ALICE, start, position)).global_
    assert entry == {"type": PUSH_RULES, "content": await rules.content(ALICE)}
    assert entry["content"]["global"]["content"] == [
        {"rule_id": "tea", "default": False, "enabled": True, "actions": ["notify"], "pattern": "tea"}
    ]
    await rules.switch(ALICE, "content", "tea", enabled=True)
    assert (await process.account_data.changed(ALICE, position, process.engine.stream.position)).global_ == []
    assert await rules.compiled(BOB) is DEFAULT_COMPILED


async def test_compiled_rules_are_the_same_until_the_rules_change(database: Database) -> None:
    """Other account data does not make them anew; a rule does; back at the defaults everybody's are used again."""
    process = await Process.open(database)
    rules = process.push_rules
    await rules.put(ALICE, "room", PushRule("!r:localhost", ()))
    compiled = await rules.compiled(ALICE)
    await process.account_data.put(ALICE, "org.example.other", {"n": 1})
    assert await rules.compiled(ALICE) is compiled
    await rules.switch(ALICE, "room", "!r:localhost", enabled=False)
    assert await rules.compiled(ALICE) is not compiled
    await rules.remove(ALICE, "room", "!r:localhost")
    assert await rules.compiled(ALICE) is DEFAULT_COMPILED


async def test_rules_about_a_room_follow_it(database: Database) -> None:
    """Next to the rules they copy and switched like them; none where the new room has one; no others are copied."""
    process = await Process.open(database)
    rules, old, new = process.push_rules, "!old:localhost", "!new:localhost"
    await rules.follow(ALICE, old, new)
    assert await process.account_data.get(ALICE, PUSH_RULES) is None
    here = {"kind": "event_match", "key": "room_id", "pattern": old}
    there = {**here, "pattern": new}
    other = {"kind": "event_match", "key": "type", "pattern": old}
    for name, condition in (("first", other), (old, here), ("last", {**here, "pattern": "!o*"})):
        await rules.put(ALICE, "override", PushRule(name, (), conditions=(condition, other)))
    await rules.switch(ALICE, "override", old, enabled=False)
    await rules.put(ALICE, "room", PushRule(old, ("notify",)))
    await rules.put(ALICE, "room", PushRule(new, ()))
    await rules.put(ALICE, "sender", PushRule("@old:localhost", ()))
    for _ in range(2):
        await rules.follow(ALICE, old, new)
        own = (await rules.rules(ALICE)).own
        assert [rule.rule_id for rule in own[Kind.OVERRIDE]] == ["last", old, new, "first"]
        assert own[Kind.OVERRIDE][2] == PushRule(new, (), enabled=False, conditions=(there, other))
        assert {rule.rule_id: rule.actions for rule in own[Kind.ROOM]} == {old: ("notify",), new: ()}
        assert len(own[Kind.SENDER]) == 1


async def test_simultaneous_changes_are_all_made(database: Database) -> None:
    """Two processes, a dozen rules each, all at once: clients do so when they log in."""
    processes = [await Process.open(database), await Process.open(database)]
    changes = [
        Deferred.fromCoroutine(process.push_rules.put(ALICE, "sender", PushRule(f"@{at}.{n}:x", ())))
        for n in range(12)
        for at, process in enumerate(processes)
    ]
    await gatherResults(changes)
    fresh = await (await Process.open(database)).push_rules.rules(ALICE)
    assert {rule.rule_id for rule in fresh.own[Kind.SENDER]} == {
        f"@{at}.{n}:x" for n in range(12) for at in range(2)
    }


async def test_who_is_overtaken_again_and_again_makes_the_change_all_the_same(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has a dozen changes for each that is tried here, and is always sooner."""
    here, there = await Process.open(database), await Process.open(database)
    one, overtaken = AccountDataStore.one, 0

    async def too_late(store: AccountDataStore, user_id: str, room: int, event_type: str) -> Any:
        nonlocal overtaken
        found = await one(store, user_id, room, event_type)
        if overtaken < 40:
            overtaken += 1
            with monkeypatch.context() as undisturbed:
                undisturbed.setattr(AccountDataStore, "one", one)
                await there.push_rules.put(ALICE, "sender", PushRule(f"@there.{overtaken}:x", ()))
        return found

    monkeypatch.setattr(AccountDataStore, "one", too_late)
    await here.push_rules.put(ALICE, "sender", PushRule("@here:x", ()))
    own = (await (await Process.open(database)).push_rules.rules(ALICE)).own[Kind.SENDER]
    assert {rule.rule_id for rule in own} == {"@here:x", *(f"@there.{n}:x" for n in range(1, 41))}


async def test_what_makes_no_sense_is_refused(database: Database) -> None:
    """Each with its error, and nothing is written."""
    rules = (await Process.open(database)).push_rules
    long = PushRule("long", (), pattern="a" * 2000)
    for kind, rule in (
        ("nonsense", PushRule("x", ())),
        ("room", PushRule(".m.rule.mine", ())),
        ("room", PushRule("a/b", ())),
        ("room", PushRule("a\\b", ())),
        ("room", PushRule("a" * 300, ())),
        ("content", long),
        ("override", PushRule("x", (), conditions=({"kind": "event_match", "pattern": "a" * 2000},))),
    ):
        with pytest.raises(InvalidParam):
            await rules.put(ALICE, kind, rule)
    with pytest.raises(Unknown):
        await rules.put(ALICE, "room", PushRule("x", ()), before="nobody")
    with pytest.raises(NotFound):
        await rules.remove(ALICE, "override", ".m.rule.master")
    with pytest.raises(NotFound):
        await rules.switch(ALICE, "override", "x", enabled=True)
    with pytest.raises(NotFound):
        await rules.act(ALICE, "override", "x", ())
    with pytest.raises(NotFound):
        await rules.rule(ALICE, "override", "x")
    with pytest.raises(InvalidParam):
        await rules.rule(ALICE, "nonsense", "x")
    assert await rules.rules(ALICE) is NO_RULES


async def test_rules_are_bounded(database: Database) -> None:
    """What does not fit into account data is refused as too large."""
    rules = (await Process.open(database)).push_rules
    conditions = tuple({"kind": "event_match", "key": "k" * 1000, "pattern": "p"} for _ in range(600))
    with pytest.raises(TooLarge):
        await rules.put(ALICE, "override", PushRule("big", (), conditions=conditions))


async def test_an_initial_sync_has_the_rules_of_everybody(database: Database) -> None:
    """Also of who never changed any; an increment only after a change; other account data passes through."""
    process = await Process.open(database)
    shown = AccountDataWithRules(process.account_data, process.push_rules)
    stream = process.engine.stream
    defaults = {"type": PUSH_RULES, "content": NO_RULES.content(ALICE)}
    assert (await shown.changed(ALICE, 0, stream.position)).global_ == [defaults]
    start = stream.position
    other = {"type": "org.example.other", "content": {"n": 1}}
    await process.account_data.put(ALICE, "org.example.other", {"n": 1})
    assert (await shown.changed(ALICE, start, stream.position)).global_ == [other]
    await process.push_rules.switch(ALICE, "override", ".m.rule.master", enabled=True)
    changed = {"type": PUSH_RULES, "content": await process.push_rules.content(ALICE)}
    assert changed != defaults
    assert (await shown.changed(ALICE, start, stream.position)).global_ == [other, changed]
    assert (await shown.changed(ALICE, 0, stream.position)).global_ == [other, changed]
    assert await shown.ignored(ALICE) == frozenset()


async def test_defaults_that_were_stored_give_way_to_those_of_today(database: Database) -> None:
    """An entry written under other defaults shows today's, with what the user changed."""
    process = await Process.open(database)
    old = {
        "global": {
            "override": [
                {"rule_id": ".m.rule.master", "default": True, "enabled": True, "actions": ["dont_notify"]},
                {"rule_id": ".m.rule.gone", "default": True, "enabled": True, "actions": ["notify"]},
            ],
            "room": [{"rule_id": "!r:localhost", "default": False, "enabled": True, "actions": []}],
        }
    }
    await process.account_data.put_managed(ALICE, 0, PUSH_RULES, old)
    shown = AccountDataWithRules(process.account_data, process.push_rules)
    (entry,) = (await shown.changed(ALICE, 0, process.engine.stream.position)).global_
    expected = NO_RULES.put(Kind.ROOM, PushRule("!r:localhost", ()))
    expected = expected.switch(Kind.OVERRIDE, ".m.rule.master", enabled=True)
    assert entry["content"] == expected.content(ALICE)
