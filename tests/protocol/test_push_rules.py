# SPDX-License-Identifier: Apache-2.0
"""Push rules: the defaults, every condition, what users add and change, and the order of it all."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.protocol.power_levels import PowerLevels
from homeserver.protocol.push_rules import (
    DEFAULT_COMPILED,
    NO_RULES,
    Action,
    Actions,
    EventView,
    Kind,
    PushRule,
    Reader,
    RoomFacts,
    RulePlacementError,
    TooManyRulesError,
    UnknownRuleError,
    UserRules,
    compile_rules,
    evaluate,
)
from homeserver.protocol.push_rules.conditions import MAX_STEPS
from homeserver.protocol.push_rules.user_rules import MAX_OWN_RULES
from homeserver.protocol.room_versions import room_version

ME, PEER, ROOM = "@me:example.org", "@peer:example.org", "!room:example.org"
LEVELS = PowerLevels(room_version("11"), {"users": {"@mod:example.org": 50}}, frozenset())
GROUP, PAIR = RoomFacts(5, LEVELS), RoomFacts(2, LEVELS)
SILENT = Actions(False, False, {})
PLAIN = Actions(True, False, {})
SOUND = Actions(True, False, {"sound": "default"})
HIGHLIGHT = Actions(True, True, {"highlight": True})
MENTION = Actions(True, True, {"sound": "default", "highlight": True})


def view(event_type: str = "m.room.message", sender: str = PEER, **fields: Any) -> EventView:
    """An event; `content` is a text message unless given."""
    fields.setdefault("content", {"msgtype": "m.text", "body": "It's time for tea"})
    return EventView({"type": event_type, "sender": sender, **fields}, event_id="$event", room_id=ROOM)


def said(body: object, **content: Any) -> EventView:
    return view(content={"msgtype": "m.text", "body": body, **content})


def outcome(
    event: EventView, rules: UserRules = NO_RULES, room: RoomFacts = GROUP, name: str | None = None
) -> Actions:
    return evaluate(compile_rules(rules), event, room, Reader(ME, name))


def own(kind: Kind, rule_id: str, *actions: Any, **fields: Any) -> UserRules:
    return NO_RULES.put(kind, PushRule(rule_id, actions, **fields))


def meets(*conditions: dict[str, Any], event: EventView, room: RoomFacts = GROUP, name: str = "") -> bool:
    rules = own(Kind.OVERRIDE, "mine", {"set_tweak": "met"}, conditions=conditions)
    return "met" in outcome(event, rules, room, name).tweaks


@pytest.mark.parametrize(
    ("event", "room", "expected"),
    [
        (view(), GROUP, PLAIN),
        (view(), PAIR, SOUND),
        (view("m.room.encrypted", content={}), GROUP, PLAIN),
        (view("m.room.encrypted", content={}), PAIR, SOUND),
        (view(content={"msgtype": "m.notice", "body": "beep"}), PAIR, SILENT),
        (view("m.room.member", state_key=ME, content={"membership": "invite"}), GROUP, SOUND),
        (view("m.room.member", state_key=PEER, content={"membership": "invite"}), GROUP, SILENT),
        (view("m.room.member", state_key=ME, content={"membership": "join"}), GROUP, SILENT),
        (said("hi", **{"m.mentions": {"user_ids": [PEER, ME]}}), GROUP, MENTION),
        (said("hi", **{"m.mentions": {"user_ids": [PEER]}}), GROUP, PLAIN),
        (said("hi", **{"m.mentions": {"user_ids": ME}}), GROUP, PLAIN),
        (said("hi", **{"m.mentions": {"room": True}}), GROUP, PLAIN),
        (view(sender="@mod:example.org", content={"m.mentions": {"room": True}}), GROUP, HIGHLIGHT),
        (view(sender="@mod:example.org", content={"m.mentions": {"room": 1}}), GROUP, PLAIN),
        (view("m.room.tombstone", state_key="", content={}), GROUP, HIGHLIGHT),
        (view("m.room.tombstone", state_key="x", content={}), GROUP, SILENT),
        (view("m.room.tombstone", content={}), GROUP, SILENT),
        (view("m.reaction", content={}), GROUP, SILENT),
        (view("m.room.server_acl", state_key="", content={}), GROUP, SILENT),
        (said("* tea", **{"m.relates_to": {"rel_type": "m.replace"}}), PAIR, SILENT),
        (view("m.call.invite", content={}), GROUP, Actions(True, False, {"sound": "ring"})),
        (view("m.room.topic", state_key="", content={"topic": "tea"}), PAIR, SILENT),
        (view("org.example.custom", content={"body": "me"}), PAIR, SILENT),
    ],
)
def test_the_default_rules_judge_as_the_specification_says(
    event: EventView, room: RoomFacts, expected: Actions
) -> None:
    """One event per default rule, and one beside it. The second user asks of an event already looked at."""
    assert evaluate(DEFAULT_COMPILED, event, room, Reader("@other:example.org")) is not None
    assert evaluate(DEFAULT_COMPILED, event, room, Reader(ME)) == expected


def test_the_default_rules_are_those_of_the_specification() -> None:
    """Ids in their order; all on but the master; all marked default; the user's id where it is meant."""
    rules = NO_RULES.content(ME)["global"]
    assert [rule["rule_id"].removeprefix(".m.rule.") for rule in rules["override"]] == [
        "master",
        "suppress_notices",
        "invite_for_me",
        "member_event",
        "is_user_mention",
        "is_room_mention",
        "tombstone",
        "reaction",
        "room.server_acl",
        "suppress_edits",
    ]
    assert [rule["rule_id"].removeprefix(".m.rule.") for rule in rules["underride"]] == [
        "call",
        "encrypted_room_one_to_one",
        "room_one_to_one",
        "message",
        "encrypted",
    ]
    assert rules["content"] == rules["room"] == rules["sender"] == []
    assert [r["rule_id"] for kind in rules.values() for r in kind if not r["enabled"]] == [".m.rule.master"]
    assert all(rule["default"] for kind in rules.values() for rule in kind)
    assert rules["override"][2]["conditions"][2]["pattern"] == ME
    assert rules["override"][4]["conditions"][0]["value"] == ME
    orjson.dumps(rules)


@pytest.mark.parametrize(
    ("condition", "event", "expected"),
    [
        ({"kind": "event_match", "key": "content.body", "pattern": "TIME"}, view(), True),
        ({"kind": "event_match", "key": "content.body", "pattern": "tim"}, view(), False),
        ({"kind": "event_match", "key": "content.body", "pattern": "*"}, said(None), False),
        ({"kind": "event_match", "key": "content.absent", "pattern": "*"}, view(), False),
        ({"kind": "event_match", "key": "content.msgtype", "pattern": "m.t??t"}, view(), True),
        ({"kind": "event_match", "key": "content.msgtype", "pattern": "text"}, view(), False),
        ({"kind": "event_match", "key": "room_id", "pattern": ROOM}, view(), True),
        ({"kind": "event_match", "key": "room_id", "pattern": "!elsewhere:example.org"}, view(), False),
        ({"kind": "event_match", "key": "room_id", "pattern": "*:example.org"}, view(), True),
        ({"kind": "event_match", "key": "state_key", "pattern": ""}, view(), False),
        ({"kind": "event_match", "key": "type"}, view(), False),
        ({"kind": "event_match", "pattern": "*"}, view(), False),
        ({"kind": "event_match", "key": "type", "pattern": 7}, view(), False),
        ({"kind": "event_property_is", "key": "content.m\\.federate", "value": True}, said("", n=1), False),
        ({"kind": "event_property_is", "key": "content.n", "value": 1}, said("", n=1), True),
        ({"kind": "event_property_is", "key": "content.n", "value": True}, said("", n=1), False),
        ({"kind": "event_property_is", "key": "content.n", "value": 1}, said("", n=True), False),
        ({"kind": "event_property_is", "key": "content.n", "value": "1"}, said("", n=1), False),
        ({"kind": "event_property_is", "key": "content.n", "value": None}, said("", n=None), True),
        ({"kind": "event_property_is", "key": "content.n", "value": None}, said(""), False),
        ({"kind": "event_property_is", "key": "content.n", "value": [1]}, said("", n=[1]), False),
        ({"kind": "event_property_is", "key": "content.n"}, said("", n=None), False),
        ({"kind": "event_property_is", "key": "content.n", "value": "A"}, said("", n="a"), False),
        (
            {"kind": "event_property_contains", "key": "content.n", "value": "#a"},
            said("", n=[{}, "#a"]),
            True,
        ),
        ({"kind": "event_property_contains", "key": "content.n", "value": "#"}, said("", n=["#a"]), False),
        ({"kind": "event_property_contains", "key": "content.n", "value": 1}, said("", n=[True]), False),
        ({"kind": "event_property_contains", "key": "content.n", "value": "a"}, said("", n="a"), False),
        ({"kind": "event_property_contains", "key": "content.n", "value": "a"}, said("", n={"a": 1}), False),
        ({"kind": "room_member_count", "is": "5"}, view(), True),
        ({"kind": "room_member_count", "is": "==5"}, view(), True),
        ({"kind": "room_member_count", "is": "<5"}, view(), False),
        ({"kind": "room_member_count", "is": "<=5"}, view(), True),
        ({"kind": "room_member_count", "is": ">4"}, view(), True),
        ({"kind": "room_member_count", "is": ">=6"}, view(), False),
        ({"kind": "room_member_count", "is": "=5"}, view(), False),
        ({"kind": "room_member_count", "is": "five"}, view(), False),
        ({"kind": "room_member_count", "is": "٥"}, view(), False),
        ({"kind": "room_member_count", "is": 5}, view(), False),
        ({"kind": "room_member_count"}, view(), False),
        ({"kind": "sender_notification_permission", "key": "room"}, view(), False),
        ({"kind": "sender_notification_permission", "key": "room"}, view(sender="@mod:example.org"), True),
        ({"kind": "sender_notification_permission"}, view(sender="@mod:example.org"), False),
        ({"kind": "contains_display_name"}, said("Well, M*e Myself said so"), True),
        ({"kind": "contains_display_name"}, said("Mae Myself"), False),
        ({"kind": "contains_display_name"}, said("M*e Myselfish"), False),
        ({"kind": "org.example.unknown"}, view(), False),
        ({"kind": ["event_match"]}, view(), False),
        ({}, view(), False),
    ],
)
def test_a_condition_holds(condition: dict[str, Any], event: EventView, expected: bool) -> None:
    """Each kind, with the values that are near misses; nonsense never holds."""
    assert meets(condition, event=event, name="M*e Myself") is expected


def test_a_rule_needs_all_its_conditions_and_none_is_enough() -> None:
    """Without conditions a rule always matches; an unknown one disables the rule."""
    two, unknown = {"kind": "room_member_count", "is": "2"}, {"kind": "unknown"}
    assert meets(event=view())
    assert meets(two, {"kind": "event_match", "key": "type", "pattern": "*"}, event=view(), room=PAIR)
    assert not meets(two, unknown, event=view(), room=PAIR)
    assert not meets({"kind": "contains_display_name"}, event=said("anything"))


def test_kinds_are_checked_in_their_order() -> None:
    """override, content, room, sender, underride: each of the user's own beats the next."""
    rules = NO_RULES
    expected = []
    for kind in reversed(Kind):
        rule_id = {Kind.ROOM: ROOM, Kind.SENDER: PEER}.get(kind, "mine")
        pattern = "tea" if kind is Kind.CONTENT else None
        rules = rules.put(
            kind, PushRule(rule_id, ({"set_tweak": "kind", "value": kind.value},), pattern=pattern)
        )
        expected.append(kind.value)
        assert outcome(view(), rules).tweaks == {"kind": kind.value}
    assert expected == ["underride", "sender", "room", "content", "override"]


def test_room_sender_and_content_rules_only_match_what_they_name() -> None:
    """Another room, another sender, another word; and a rule whose pattern was lost matches nothing."""
    quiet = own(Kind.ROOM, "!other:example.org").put(Kind.SENDER, PushRule("@peer:example", ()))
    quiet = quiet.put(Kind.CONTENT, PushRule("coffee", (), pattern="coffee"))
    quiet = quiet.put(Kind.CONTENT, PushRule("lost", ()))
    assert outcome(view(), quiet) == PLAIN
    assert outcome(said("coffee"), quiet) == SILENT
    assert outcome(view(), own(Kind.ROOM, ROOM)) == SILENT
    assert outcome(view(), own(Kind.SENDER, PEER)) == SILENT


def test_the_master_rule_goes_before_everything() -> None:
    """Even the user's own override rules."""
    rules = own(Kind.OVERRIDE, "mine", "notify", conditions=())
    assert [rule.rule_id for rule in rules.of_kind(Kind.OVERRIDE)][:3] == [
        ".m.rule.master",
        "mine",
        ".m.rule.suppress_notices",
    ]
    assert outcome(view("org.example.any"), rules) == PLAIN
    off = rules.switch(Kind.OVERRIDE, ".m.rule.master", enabled=True)
    assert outcome(view(), off) == SILENT


def test_a_disabled_rule_never_matches() -> None:
    """A default one, and one's own."""
    rules = NO_RULES.switch(Kind.OVERRIDE, ".m.rule.suppress_notices", enabled=False)
    notice = {"msgtype": "m.notice", "body": "tea"}
    assert outcome(view(content=notice), rules) == PLAIN
    rules = own(Kind.CONTENT, "tea", pattern="tea")
    assert outcome(view(), rules) == SILENT
    assert outcome(view(), rules.switch(Kind.CONTENT, "tea", enabled=False)) == PLAIN


def test_actions_are_read() -> None:
    """Tweaks and their defaults; historical actions are ignored and stripped."""
    actions: list[Action] = [
        "dont_notify",
        "coalesce",
        {"set_tweak": "highlight", "value": False},
        {"set_tweak": "x", "value": 3},
    ]
    rules = NO_RULES.act(Kind.UNDERRIDE, ".m.rule.message", actions)
    assert outcome(view(), rules) == Actions(False, False, {"highlight": False, "x": 3})
    assert rules.find(Kind.UNDERRIDE, ".m.rule.message").actions == tuple(actions[2:])
    assert outcome(view(), NO_RULES.act(Kind.UNDERRIDE, ".m.rule.message", ["dont_notify"])) == SILENT
    odd = NO_RULES.act(Kind.UNDERRIDE, ".m.rule.message", ["notify", "wave", {"no": "tweak"}])
    assert outcome(view(), odd) == PLAIN


def test_a_rules_set_cannot_hold_up_the_server() -> None:
    """Patterns beyond the steps for one event match nothing; the next event gets its steps anew."""
    body = "a " * 30_000 + "b"
    rules = NO_RULES
    for number in range(MAX_STEPS // len(body) + 1):
        rules = rules.put(Kind.CONTENT, PushRule(str(number), (), pattern="*?" * 20 + "a" * number + "b"))
    rules = rules.put(Kind.CONTENT, PushRule("last", (), pattern="b"), after="0")
    for number in range(1, MAX_STEPS // len(body) + 1):
        rules = rules.put(Kind.CONTENT, PushRule(str(number), (), pattern="b??" + "*a" * number))
    compiled, reader = compile_rules(rules), Reader(ME)
    assert evaluate(compiled, said(body), GROUP, reader) == PLAIN
    assert evaluate(compiled, said("b"), GROUP, reader) == SILENT


def test_looking_through_arrays_takes_steps_too() -> None:
    rules = NO_RULES
    for number, value in enumerate(["x", *(["y"] * (MAX_STEPS // 10_000))]):
        condition = {"kind": "event_property_contains", "key": "content.list", "value": value}
        rules = rules.put(Kind.OVERRIDE, PushRule(str(number), (), conditions=(condition,)))
    assert outcome(said("hello", list=["x"] * 10), rules) == SILENT
    assert outcome(said("hello", list=["x"] * 10_000), rules) == PLAIN


def placed(rules: UserRules) -> list[str]:
    return [rule.rule_id for rule in rules.own[Kind.ROOM]]


def test_rules_are_put_where_they_are_told() -> None:
    """New ones first; next to another; changed ones keep place and switch; `before` wins."""
    rules = NO_RULES
    for name in "abc":
        rules = rules.put(Kind.ROOM, PushRule(name, ()))
    assert placed(rules) == ["c", "b", "a"]
    assert placed(rules.put(Kind.ROOM, PushRule("d", ()), before="b")) == ["c", "d", "b", "a"]
    assert placed(rules.put(Kind.ROOM, PushRule("d", ()), after="b")) == ["c", "b", "d", "a"]
    assert placed(rules.put(Kind.ROOM, PushRule("d", ()), before="a", after="c")) == ["c", "b", "d", "a"]
    assert placed(rules.put(Kind.ROOM, PushRule("c", ()), after="a")) == ["b", "a", "c"]
    assert placed(rules.put(Kind.ROOM, PushRule("a", ("notify",)))) == ["c", "b", "a"]
    changed = rules.switch(Kind.ROOM, "a", enabled=False).put(Kind.ROOM, PushRule("a", ("notify",)))
    assert changed.find(Kind.ROOM, "a") == PushRule("a", ("notify",), enabled=False)
    assert placed(rules.remove(Kind.ROOM, "b")) == ["c", "a"]


@pytest.mark.parametrize("neighbour", ["nobody", ".m.rule.message", "c"])
def test_a_rule_cannot_be_put_next_to_what_is_no_own_rule(neighbour: str) -> None:
    """An unknown one, a default one, itself."""
    rules = own(Kind.UNDERRIDE, "c")
    for place in ({"before": neighbour}, {"after": neighbour}):
        with pytest.raises(RulePlacementError):
            rules.put(Kind.UNDERRIDE, PushRule("c", ()), **place)


def test_what_is_not_there_is_not_changed() -> None:
    """Unknown rules, rules of another kind, and the removal of a default."""
    rules = own(Kind.ROOM, ROOM)
    for kind, rule_id in ((Kind.SENDER, ROOM), (Kind.ROOM, "x"), (Kind.ROOM, ".m.rule.message")):
        with pytest.raises(UnknownRuleError):
            rules.find(kind, rule_id)
        with pytest.raises(UnknownRuleError):
            rules.switch(kind, rule_id, enabled=True)
        with pytest.raises(UnknownRuleError):
            rules.act(kind, rule_id, ())
    with pytest.raises(UnknownRuleError):
        rules.remove(Kind.UNDERRIDE, ".m.rule.message")


def test_there_is_a_limit() -> None:
    """Another rule of one's own is refused at the limit; changing one is not."""
    full = UserRules({Kind.ROOM: tuple(PushRule(str(n), ()) for n in range(MAX_OWN_RULES))}, {})
    with pytest.raises(TooManyRulesError):
        full.put(Kind.SENDER, PushRule(PEER, ()))
    assert full.put(Kind.ROOM, PushRule("7", ("notify",))).find(Kind.ROOM, "7").actions == ("notify",)


EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(Kind), st.sampled_from("abcd")),
        st.tuples(st.just("remove"), st.sampled_from(Kind), st.sampled_from("abcd")),
        st.tuples(
            st.sampled_from(("on", "off", "act")),
            st.sampled_from(Kind),
            st.sampled_from(("a", "b", ".m.rule.message", ".m.rule.master", ".m.rule.call")),
        ),
    ),
    max_size=12,
)


def edited(rules: UserRules, edit: tuple[str, Kind, str]) -> UserRules:
    verb, kind, rule_id = edit
    if verb == "put":
        conditions = ({"kind": "room_member_count", "is": "3"},) if kind.value.endswith("ride") else None
        pattern = "tea*" if kind is Kind.CONTENT else None
        return rules.put(kind, PushRule(rule_id, ("notify",), conditions=conditions, pattern=pattern))
    if verb == "remove":
        return rules.remove(kind, rule_id)
    if verb == "act":
        return rules.act(kind, rule_id, [{"set_tweak": "sound", "value": "bing"}])
    return rules.switch(kind, rule_id, enabled=verb == "on")


@given(EDITS)
def test_what_is_stored_is_what_is_read(edits: list[tuple[str, Kind, str]]) -> None:
    """After any edits the content, through JSON, gives the same rules; changes back to the default leave no trace."""
    rules = NO_RULES
    for edit in edits:
        try:
            rules = edited(rules, edit)
        except UnknownRuleError:
            continue
    stored = orjson.loads(orjson.dumps(rules.content(ME)))
    again = UserRules.from_content(stored)
    assert again.content(ME) == rules.content(ME)
    assert again.changed == rules.changed
    assert {kind: own for kind, own in again.own.items() if own} == {
        kind: own for kind, own in rules.own.items() if own
    }


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    (
                        "global",
                        "override",
                        "content",
                        "rule_id",
                        "actions",
                        "conditions",
                        "pattern",
                        "kind",
                        "key",
                        "is",
                    )
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=20,
    )
)
def test_no_content_stops_the_reading(content: object) -> None:
    """Whatever was stored, there are rules, and events can be judged by them."""
    rules = UserRules.from_content({"global": content})
    assert len(rules.of_kind(Kind.OVERRIDE)) >= 10
    outcome(view(), rules)


TYPES = (
    "m.room.message",
    "m.room.encrypted",
    "m.room.member",
    "m.reaction",
    "m.room.tombstone",
    "M.ROOM.MESSAGE",
)
EVENTS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(TYPES),
        "content": st.fixed_dictionaries(
            {},
            optional={
                "body": st.sampled_from(["hello", "Hello @room", "me or us"]),
                "msgtype": st.sampled_from(["m.text", "m.notice"]),
                "membership": st.just("invite"),
                "m.mentions": st.fixed_dictionaries(
                    {},
                    optional={
                        "user_ids": st.lists(st.sampled_from([ME, PEER])) | st.just(ME),
                        "room": st.booleans(),
                    },
                ),
                "m.relates_to": st.just({"rel_type": "m.replace"}),
            },
        ),
    },
    optional={"state_key": st.sampled_from(["", ME, PEER])},
)
OWN_CONDITIONS = st.sampled_from(
    [
        {"kind": "event_match", "key": "type", "pattern": "m.room.*"},
        {"kind": "event_match", "key": "type", "pattern": "m.Reaction"},
        {"kind": "event_match", "key": "content.body", "pattern": "us"},
        {"kind": "event_match", "key": "room_id", "pattern": ROOM},
        {"kind": "event_match", "key": "room_id", "pattern": "!elsewhere:example.org"},
        {"kind": "event_property_is", "key": "type", "value": "m.reaction"},
    ]
)


@given(
    event=EVENTS,
    own_conditions=st.lists(st.lists(OWN_CONDITIONS, max_size=2), max_size=3),
    room=st.sampled_from([GROUP, PAIR]),
)
def test_what_is_not_asked_would_not_have_matched(
    event: dict[str, Any], own_conditions: list[list[dict[str, Any]]], room: RoomFacts
) -> None:
    """One view for all users of a room, whose rules differ: each is told what the first of their rules says."""
    rules = NO_RULES
    for number, conditions in enumerate(own_conditions):
        tweak = {"set_tweak": f"own {number}"}
        rules = rules.put(Kind.OVERRIDE, PushRule(f"own {number}", (tweak,), conditions=tuple(conditions)))
    shared = EventView({"sender": PEER, **event}, event_id="$event", room_id=ROOM)
    for user_id, name in ((ME, "me"), ("@other:example.org", None), (PEER, "us"), (ME, "me")):
        for compiled in (DEFAULT_COMPILED, compile_rules(rules)):
            alone = EventView({"sender": PEER, **event}, event_id="$event", room_id=ROOM)
            reader = Reader(user_id, name)
            first = next(
                (rule for rule in compiled if all(c.holds(alone, room, reader) for c in rule.conditions)),
                None,
            )
            expected = SILENT if first is None else first.actions
            assert evaluate(compiled, shared, room, Reader(user_id, name)) == expected


def test_rules_that_name_another_room_are_not_looked_at() -> None:
    """What applies in a room is the same as if all were looked at, and does not grow with rooms muted elsewhere."""
    rules = NO_RULES
    for number in range(50):
        room_id = f"!{number}:example.org"
        rules = rules.put(Kind.ROOM, PushRule(room_id, ()))
        condition = {"kind": "event_match", "key": "room_id", "pattern": room_id.upper()}
        rules = rules.put(Kind.OVERRIDE, PushRule(room_id, (), conditions=(condition,)))
    compiled = compile_rules(rules)
    event = EventView(
        {"type": "m.room.message", "sender": PEER, "content": {}}, event_id="$e", room_id="!7:example.org"
    )
    assert len(compiled.for_event(view())) == len(DEFAULT_COMPILED.for_event(view()))
    assert len(compiled.for_event(event)) == len(list(DEFAULT_COMPILED)) + 2
    assert evaluate(compiled, event, GROUP, Reader(ME)) == SILENT
    assert evaluate(compiled, view(), GROUP, Reader(ME)) == PLAIN


def test_display_names_are_only_asked_for_where_a_rule_wants_them() -> None:
    """The defaults do not."""
    assert not DEFAULT_COMPILED.needs_display_name
    asks = own(Kind.OVERRIDE, "name", "notify", conditions=({"kind": "contains_display_name"},))
    assert compile_rules(asks).needs_display_name
