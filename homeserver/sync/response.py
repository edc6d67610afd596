# SPDX-License-Identifier: Apache-2.0
"""The JSON of a sync response, put together from parts that are bytes already.

Every section a client might look for is there, empty if need be: some clients stumble over absent ones, none over
empty ones, and none is ever null.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from homeserver.events import RoomEvent
from homeserver.events.rendering import Past, Reader, render_all
from homeserver.protocol.tokens import SyncToken
from homeserver.sync.request import StateAfter
from homeserver.unread.counts import Counts, UnreadCounts

NO_EVENTS = b'{"events":[]}'
NO_TIMELINE = b'{"events":[],"limited":false}'
_NO_COUNTS = b'{"highlight_count":0,"notification_count":0}'

_EMPTY_FORMS = {
    "to_device": NO_EVENTS,
    "device_lists": b'{"changed":[],"left":[]}',
    "device_one_time_keys_count": b"{}",
    "device_unused_fallback_key_types": b"[]",
}
"""What a device's own sections look like while nobody supplies them."""


def events(values: Sequence[Mapping[str, Any]]) -> bytes:
    """`{"events":[…]}` of events as objects."""
    return b'{"events":' + orjson.dumps(values) + b"}" if values else NO_EVENTS


def state_part(
    name: StateAfter | None, entries: Iterable[RoomEvent], reader: Reader, past: Past | None
) -> bytes:
    """`"state":{"events":[…]}`, or the same as `state_after` under the name it was asked for by."""
    key = b'"state":{"events":[' if name is None else b'"%b":{"events":[' % name.encode()
    return key + b",".join(render_all(entries, reader, past, room_id=False)) + b"]}"


def opening(room_id: str, timeline: bytes, name: StateAfter | None) -> bytes:
    """One room of `join` without news of its state, as `joined_entry` writes it, up to its `ephemeral`."""
    state = b"state" if name is None else name.encode()
    return b'%b:{"timeline":%b,"%b":{"events":[]},"ephemeral":' % (orjson.dumps(room_id), timeline, state)


def quiet_opening(room_id: str, name: StateAfter | None) -> bytes:
    """The same of a room in which nothing happened."""
    return opening(room_id, NO_TIMELINE, name)


def closed(
    opening: bytes, ephemeral: Sequence[Mapping[str, Any]], unread: UnreadCounts, threads_apart: bool
) -> bytes:
    """An `opening`, and the rest of the entry."""
    return b"".join(
        (
            opening,
            events(ephemeral),
            b',"account_data":{"events":[]},"unread_notifications":',
            _unread(unread, threads_apart),
            b"}",
        )
    )


def small(next_batch: SyncToken, join: Sequence[bytes], extensions: Mapping[str, bytes]) -> bytes:
    """A response with nothing but rooms of `join` and a device's own sections, as `whole` writes it."""
    start = b'{"next_batch":"%b","rooms":{"join":{' % str(next_batch).encode()
    if extensions:
        return b"".join((start, b",".join(join), _BETWEEN, _extension_part({**_EMPTY_FORMS, **extensions})))
    return b"".join((start, *join, _END)) if len(join) < 2 else b"".join((start, b",".join(join), _END))


def joined_entry(
    room_id: str,
    *,
    timeline: bytes,
    state: bytes,
    ephemeral: bytes,
    account_data: bytes,
    unread: UnreadCounts | None,
    threads_apart: bool,
    summary: Mapping[str, Any] | None,
) -> bytes:
    """One room of `join`, with its key."""
    return b"".join(
        (
            orjson.dumps(room_id),
            b':{"timeline":',
            timeline,
            b",",
            state,
            b',"ephemeral":',
            ephemeral,
            b',"account_data":',
            account_data,
            b',"unread_notifications":',
            _unread(unread, threads_apart),
            b"" if summary is None else b',"summary":' + orjson.dumps(summary),
            b"}",
        )
    )


def left_entry(room_id: str, *, timeline: bytes, state: bytes, account_data: bytes) -> bytes:
    """One room of `leave`, with its key."""
    key = orjson.dumps(room_id)
    return b"".join((key, b':{"timeline":', timeline, b",", state, b',"account_data":', account_data, b"}"))


def _unread(unread: UnreadCounts | None, threads_apart: bool) -> bytes:
    if unread is None:
        return _NO_COUNTS
    if not threads_apart:
        return _counts(unread.room)
    main = _counts(unread.main)
    if not unread.threads:
        return main
    threads = b",".join(orjson.dumps(root) + b":" + _counts(count) for root, count in unread.threads.items())
    return main + b',"unread_thread_notifications":{' + threads + b"}"


def _counts(counts: Counts) -> bytes:
    if not counts.notifications:
        return _NO_COUNTS
    return b'{"highlight_count":%d,"notification_count":%d}' % (counts.highlights, counts.notifications)


def whole(
    next_batch: SyncToken,
    *,
    join: Sequence[bytes] = (),
    invite: Sequence[bytes] = (),
    knock: Sequence[bytes] = (),
    leave: Sequence[bytes] = (),
    presence: bytes = NO_EVENTS,
    account_data: bytes = NO_EVENTS,
    extensions: Mapping[str, bytes] = _EMPTY_FORMS,
) -> bytes:
    """The response. Rooms come with their keys."""
    if extensions is not _EMPTY_FORMS:
        extensions = {**_EMPTY_FORMS, **extensions}
    return b"".join(
        (
            b'{"next_batch":"%b","rooms":{"join":{' % str(next_batch).encode(),
            b",".join(join),
            b'},"invite":{',
            b",".join(invite),
            b'},"knock":{',
            b",".join(knock),
            b'},"leave":{',
            b",".join(leave),
            b'}},"presence":',
            presence,
            b',"account_data":',
            account_data,
            _extension_part(extensions),
        )
    )


def _extension_part(extensions: Mapping[str, bytes]) -> bytes:
    """A device's own sections, and the end of the response."""
    return b"".join((*(b',"%b":%b' % (key.encode(), value) for key, value in extensions.items()), b"}"))


_BETWEEN = b'},"invite":{},"knock":{},"leave":{}},"presence":%b,"account_data":%b' % (NO_EVENTS, NO_EVENTS)
_END = _BETWEEN + _extension_part(_EMPTY_FORMS)
