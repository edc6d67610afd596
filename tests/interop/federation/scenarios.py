# SPDX-License-Identifier: Apache-2.0
"""What people on two homeservers do together. Each conversation is held with either kind of server on either side.

A conversation gets two people, `near` and `far`, fresh and each on a server of their own.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import count
from typing import Final

from PIL import Image

from tests.interop.federation.people import Person, Refused
from tests.serving import usual_workers

Conversation = Callable[[Person, Person], None]

PAST = 500 if usual_workers() == 1 else 150
"""Messages that somebody who comes later reads: more than are fetched at once."""


def _shared_room(near: Person, far: Person, version: str = "12") -> str:
    """A public room of near's that far has joined."""
    room_id = near.create_room(room_version=version)
    far.join(room_id, near.server.server_name)
    far.is_in(room_id)
    near.sees_membership(room_id, far, "join")
    return room_id


def _same_state(room_id: str, *people: Person) -> None:
    """Their servers agree on the room's state, sooner or later."""
    first, *others = people
    for other in others:
        other.until(lambda _: other.state(room_id) == first.state(room_id), "agreeing on the state")  # noqa: B023


def talk_by_alias(near: Person, far: Person) -> None:
    alias_name = near.user_id.split(":")[0][1:]
    room_id = near.create_room(room_alias_name=alias_name, name="the square")
    alias = f"#{alias_name}:{near.server.server_name}"
    assert far.learns("GET", f"v3/directory/room/%23{alias[1:]}")["room_id"] == room_id
    assert far.join(alias) == room_id
    far.is_in(room_id)
    assert far.joined[room_id].state["m.room.name", ""]["content"]["name"] == "the square"
    near.sees_membership(room_id, far, "join")
    for n in range(3):
        near.say(room_id, f"near {n}")
        far.hears(room_id, f"near {n}")
        far.say(room_id, f"far {n}")
        near.hears(room_id, f"far {n}")
        far.hears(room_id, f"far {n}")
    assert near.joined[room_id].bodies() == far.joined[room_id].bodies()
    _same_state(room_id, near, far)


def talk_by_invite(near: Person, far: Person) -> None:
    room_id = near.create_room(preset="private_chat", name="the den")
    near.membership(room_id, "invite", far)
    far.is_invited(room_id)
    shown = {event["type"]: event for event in far.invited[room_id]}
    assert shown["m.room.name"]["content"]["name"] == "the den"
    far.join(room_id)
    far.is_in(room_id)
    near.sees_membership(room_id, far, "join")
    near.say(room_id, "welcome")
    far.hears(room_id, "welcome")
    far.say(room_id, "thank you")
    near.hears(room_id, "thank you")
    _same_state(room_id, near, far)


def reject_an_invite(near: Person, far: Person) -> None:
    room_id = near.create_room(preset="private_chat", invite=[far.user_id])
    far.is_invited(room_id)
    far.membership(room_id, "leave")
    near.sees_membership(room_id, far, "leave")
    far.is_out(room_id)
    # Nothing of the first refusal stands in the way of a second invite.
    near.membership(room_id, "invite", far)
    far.is_invited(room_id)


def withdraw_an_invite(near: Person, far: Person) -> None:
    room_id = near.create_room(preset="private_chat", invite=[far.user_id])
    far.is_invited(room_id)
    near.membership(room_id, "kick", far)
    far.until(lambda me: room_id not in me.invited, "the invite being withdrawn")


def knock(near: Person, far: Person) -> None:
    room_id = near.create_room(preset="private_chat", name="the club")
    near.set_state(room_id, "m.room.join_rules", {"join_rule": "knock"})
    far.knock(room_id, near.server.server_name)
    far.until(lambda me: room_id in me.knocked, "the knock")
    near.sees_membership(room_id, far, "knock")
    near.membership(room_id, "invite", far)
    far.is_invited(room_id)
    far.join(room_id)
    far.is_in(room_id)
    near.say(room_id, "come in")
    far.hears(room_id, "come in")


def restricted(near: Person, far: Person) -> None:
    lobby = _shared_room(near, far)
    room_id = near.create_room(preset="private_chat")
    allow = [{"type": "m.room_membership", "room_id": lobby}]
    near.set_state(room_id, "m.room.join_rules", {"join_rule": "restricted", "allow": allow})
    far.join(room_id, near.server.server_name)
    far.is_in(room_id)
    member = far.joined[room_id].state["m.room.member", far.user_id]
    assert member["content"]["join_authorised_via_users_server"] == near.user_id
    near.sees_membership(room_id, far, "join")
    near.say(room_id, "members only")
    far.hears(room_id, "members only")


def refused_without_reason_to_enter(near: Person, far: Person) -> None:
    lobby = near.create_room()
    room_id = near.create_room(preset="private_chat")
    allow = [{"type": "m.room_membership", "room_id": lobby}]
    near.set_state(room_id, "m.room.join_rules", {"join_rule": "restricted", "allow": allow})
    for closed in (room_id, near.create_room(preset="private_chat")):
        try:
            far.join(closed, near.server.server_name)
        except Refused as refusal:
            assert refusal.status == 403, refusal
        else:
            raise AssertionError("came in without being let in")


def redact(near: Person, far: Person) -> None:
    room_id = _shared_room(near, far)
    own = far.say(room_id, "a slip of the tongue")
    others = far.say(room_id, "an insult")
    near.hears(room_id, "an insult")
    far.redact(room_id, own)
    near.redact(room_id, others)
    for person in (near, far):
        for event_id in (own, others):

            def is_redacted(me: Person, event_id: str = event_id) -> bool:
                event = me.call("GET", f"v3/rooms/{room_id}/event/{event_id}")
                return not event["content"]

            person.until(is_redacted, f"the redaction of {event_id}")


def kick_ban_and_leave(near: Person, far: Person) -> None:
    room_id = _shared_room(near, far)
    near.membership(room_id, "kick", far)
    far.is_out(room_id)
    near.sees_membership(room_id, far, "leave")
    far.join(room_id, near.server.server_name)
    far.is_in(room_id)
    # Else the leave that is seen below may be the kick.
    near.sees_membership(room_id, far, "join")
    far.membership(room_id, "leave")
    far.is_out(room_id)
    near.sees_membership(room_id, far, "leave")
    far.join(room_id, near.server.server_name)
    far.is_in(room_id)
    near.say(room_id, "again")
    far.hears(room_id, "again")
    near.membership(room_id, "ban", far)
    far.is_out(room_id)
    try:
        far.join(room_id, near.server.server_name)
    except Refused as refusal:
        assert refusal.status == 403, refusal
    else:
        raise AssertionError("a banned user came in")


def profile(near: Person, far: Person) -> None:
    path = f"v3/profile/{near.user_id}"
    near.call("PUT", f"{path}/displayname", {"displayname": "Near"})
    assert far.learns("GET", path)["displayname"] == "Near"
    room_id = _shared_room(near, far)
    near.call("PUT", f"{path}/displayname", {"displayname": "Nearer"})

    def is_renamed(me: Person) -> bool:
        member = me.joined[room_id].state["m.room.member", near.user_id]
        return bool(member["content"].get("displayname") == "Nearer")

    far.until(is_renamed, "the new name")


def typing(near: Person, far: Person) -> None:
    room_id = _shared_room(near, far)

    def is_seen(me: Person) -> bool:
        # Clients tell again of who goes on typing: nothing that was told once is kept for who missed it.
        near.call("PUT", f"v3/rooms/{room_id}/typing/{near.user_id}", {"typing": True, "timeout": 30000})
        return me.joined[room_id].typing == [near.user_id]

    far.until(is_seen, "typing")
    near.call("PUT", f"v3/rooms/{room_id}/typing/{near.user_id}", {"typing": False})
    far.until(lambda me: me.joined[room_id].typing == [], "typing no more")


def receipts(near: Person, far: Person) -> None:
    room_id = _shared_room(near, far)
    event_id = far.say(room_id, "have you read this?")
    near.hears(room_id, "have you read this?")
    near.call("POST", f"v3/rooms/{room_id}/receipt/m.read/{event_id}", {})
    far.until(lambda me: me.joined[room_id].receipts.get((near.user_id, "m.read")) == event_id, "the receipt")


def presence(near: Person, far: Person) -> None:
    _shared_room(near, far)
    said = count(1)

    def is_seen(me: Person) -> bool:
        # As with typing; only what changed is told again.
        wanted = {"presence": "online", "status_msg": f"at the desk {next(said)}"}
        near.call("PUT", f"v3/presence/{near.user_id}/status", wanted)
        return str(me.presence.get(near.user_id, {}).get("status_msg")).startswith("at the desk")

    far.until(is_seen, "the presence")


def public_rooms(near: Person, far: Person) -> None:
    name = f"the market of {near.user_id}"
    room_id = near.create_room(visibility="public", name=name, topic="fish")
    query = {"server": near.server.server_name}

    def named(person: Person) -> list[str]:
        """The rooms of that name that a search finds. Synapse lists a room a moment after it was made."""
        search = {"filter": {"generic_search_term": "market"}}
        found = person.call("POST", "v3/publicRooms", search, query={} if person is near else query)
        return [room["room_id"] for room in found["chunk"] if room.get("name") == name]

    near.until(lambda me: named(me) == [room_id], "the room in the list")
    found = far.learns("POST", "v3/publicRooms", {"filter": {"generic_search_term": "market"}}, query=query)
    assert [room["room_id"] for room in found["chunk"] if room.get("name") == name] == [room_id]
    listed = far.learns("GET", "v3/publicRooms", query={**query, "limit": 100})
    assert room_id in [room["room_id"] for room in listed["chunk"]]


def space_hierarchy(near: Person, far: Person) -> None:
    via = [near.server.server_name]
    room_id = near.create_room(name="a corner of the space")
    space_id = near.create_room(creation_content={"type": "m.space"}, name="a space")
    near.set_state(space_id, "m.space.child", {"via": via}, room_id)
    names = {space_id: "a space", room_id: "a corner of the space"}

    def shown(me: Person) -> bool:
        found = me.call("GET", f"v1/rooms/{space_id}/hierarchy")["rooms"]
        return {room["room_id"]: room.get("name") for room in found} == names

    # Synapse knows what a room is called a moment after it was named, and keeps what others told for minutes.
    near.until(shown, "the space at home")
    far.join(space_id, *via)
    far.is_in(space_id)
    far.until(shown, "the space from afar")


def backfill(near: Person, far: Person) -> None:
    room_id = near.create_room()
    for n in range(PAST):
        near.say(room_id, f"old {n}")
    far.join(room_id, near.server.server_name)
    far.is_in(room_id)
    said = [event["content"]["body"] for event in far.history(room_id) if "body" in event["content"]]
    assert said == [f"old {n}" for n in reversed(range(PAST))]


def state_changes(near: Person, far: Person) -> None:
    room_id = _shared_room(near, far)
    levels = near.call("GET", f"v3/rooms/{room_id}/state/m.room.power_levels/")
    levels["users"] = {**levels.get("users", {}), far.user_id: 50}
    near.set_state(room_id, "m.room.power_levels", levels)
    far.until(
        lambda me: far.user_id in me.joined[room_id].state["m.room.power_levels", ""]["content"]["users"],
        "being given power",
    )
    far.set_state(room_id, "m.room.topic", {"topic": "by far"})
    near.until(lambda me: ("m.room.topic", "") in me.joined[room_id].state, "the topic")
    _same_state(room_id, near, far)


def talk_in_version(version: str) -> Conversation:
    """A conversation in a room of that version, with everything in it that versions treat differently."""

    def talk(near: Person, far: Person) -> None:
        room_id = _shared_room(near, far, version)
        near.say(room_id, "hello")
        far.hears(room_id, "hello")
        said = far.say(room_id, "hello yourself")
        near.hears(room_id, "hello yourself")
        near.redact(room_id, said)
        far.until(
            lambda me: not me.call("GET", f"v3/rooms/{room_id}/event/{said}")["content"], "the redaction"
        )
        near.set_state(room_id, "m.room.topic", {"topic": f"version {version}"})
        far.until(lambda me: ("m.room.topic", "") in me.joined[room_id].state, "the topic")
        far.membership(room_id, "leave")
        near.sees_membership(room_id, far, "leave")
        far.join(room_id, near.server.server_name)
        far.is_in(room_id)
        _same_state(room_id, near, far)

    return talk


def media(near: Person, far: Person) -> None:
    """Files and pictures go as they are; what was never there is not found."""
    picture = io.BytesIO()
    Image.new("RGB", (400, 200), (200, 30, 30)).save(picture, "PNG")
    for data in (picture.getvalue(), bytes(range(256)) * 8192):
        uri = near.upload(data, "image/png", "holidays.png")
        for person in (far, near):
            content_type, shown_as, got = person.download(uri)
            assert (content_type, got) == ("image/png", data)
            assert shown_as.endswith(("holidays.png", 'holidays.png"'))
    uri = near.upload(picture.getvalue(), "image/png", "holidays.png")
    _, shown_as, small = far.download(uri, "thumbnail", width=32, height=32, method="crop")
    assert shown_as.startswith("inline")
    assert Image.open(io.BytesIO(small)).size == (32, 32)
    try:
        far.download(f"mxc://{near.server.server_name}/neverwasthere")
    except Refused as refusal:
        assert (refusal.status, refusal.errcode) == (404, "M_NOT_FOUND")
    else:
        raise AssertionError("something was there")


CONVERSATIONS: Final[dict[str, Conversation]] = {
    "alias": talk_by_alias,
    "invite": talk_by_invite,
    "rejected invite": reject_an_invite,
    "withdrawn invite": withdraw_an_invite,
    "knock": knock,
    "restricted": restricted,
    "refused": refused_without_reason_to_enter,
    "redactions": redact,
    "kick, ban, leave": kick_ban_and_leave,
    "profile": profile,
    "typing": typing,
    "receipts": receipts,
    "presence": presence,
    "public rooms": public_rooms,
    "space": space_hierarchy,
    "backfill": backfill,
    "state": state_changes,
    "media": media,
    **{f"version {version}": talk_in_version(version) for version in ("1", "6", "10", "11", "12")},
}
