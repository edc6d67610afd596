# SPDX-License-Identifier: Apache-2.0
"""The event_relations table: an event's children, what they add up to, and the threads of a room.

Rows are written with the events (`commit_stream`). Which of what is found a user may see is decided above.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from storage.database import Database, Prepared
from storage.events import EVENT_COLUMNS, EVENT_JOINS, StoredEvent, TimelinePlace
from storage.packing import pdu_of

LEVELS = 3
"""How far indirect relations are followed."""

_FILTERS = """(%(rel_type)s::text IS NULL OR r.rel_type = %(rel_type)s)
    AND (%(event_type)s::text IS NULL OR r.type = %(event_type)s)"""

_CHILDREN = f"""SELECT {EVENT_COLUMNS}
    FROM (
        SELECT n.* FROM event_relations r JOIN events n USING (room, ordinal)
        WHERE r.room = %(room)s AND r.relates_to = %(parent)s AND {_FILTERS}
          AND (r.depth, r.position) {{beyond}} (%(depth)s, %(position)s) AND n.flags = 0
        ORDER BY r.depth {{order}}, r.position {{order}} LIMIT %(limit)s
    ) AS e {EVENT_JOINS} ORDER BY e.depth {{order}}, e.position {{order}}"""  # noqa: S608

_DESCENDANTS = f"""WITH RECURSIVE tree AS (
        SELECT n.room, n.ordinal, n.event_id, 1 AS level
        FROM event_relations r JOIN events n USING (room, ordinal)
        WHERE r.room = %(room)s AND r.relates_to = %(parent)s AND {_FILTERS} AND n.flags = 0
        UNION ALL
        SELECT n.room, n.ordinal, n.event_id, tree.level + 1
        FROM tree JOIN event_relations r ON r.room = tree.room AND r.relates_to = tree.event_id
        JOIN events n ON n.room = r.room AND n.ordinal = r.ordinal
        WHERE tree.level < {LEVELS} AND {_FILTERS} AND n.flags = 0
    )
    SELECT {EVENT_COLUMNS}
    FROM (
        SELECT n.* FROM (SELECT DISTINCT room, ordinal FROM tree) AS t JOIN events n USING (room, ordinal)
        WHERE (n.depth, n.position) {{beyond}} (%(depth)s, %(position)s)
        ORDER BY n.depth {{order}}, n.position {{order}} LIMIT %(limit)s
    ) AS e {EVENT_JOINS} ORDER BY e.depth {{order}}, e.position {{order}}"""  # noqa: S608

_ANNOTATIONS = f"""SELECT {pdu_of("n")} FROM event_relations r JOIN events n USING (room, ordinal)
    WHERE r.room = %s AND r.relates_to = %s AND r.rel_type = 'm.annotation' AND r.sender = %s AND r.type = %s
      AND n.flags = 0"""  # noqa: S608

_BACKWARDS = {"beyond": "<", "order": "DESC"}
_FORWARDS = {"beyond": ">=", "order": "ASC"}

_BUNDLES = Prepared(
    f"""WITH p AS (
        SELECT * FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::text[], %s::text[], %s::boolean[],
            %s::boolean[]) AS p(room, event_id, upto, sender, type, editable, rootable)
    ), c AS MATERIALIZED (
        SELECT p.event_id AS parent, p.editable AND r.sender = p.sender AND r.type = p.type AS edits, p.rootable,
            r.room, r.ordinal, r.depth, r.position, r.rel_type, r.sender
        FROM p JOIN event_relations r ON r.room = p.room AND r.relates_to = p.event_id AND r.position <= p.upto
        WHERE r.bundled AND r.rel_type IN ('m.replace', 'm.thread', 'm.reference') AND r.sender <> ALL (%s::text[])
    ), edits AS (
        SELECT DISTINCT ON (c.parent) c.parent, c.room, c.ordinal
        FROM c JOIN events n USING (room, ordinal) WHERE c.rel_type = 'm.replace' AND c.edits
        ORDER BY c.parent, n.origin_server_ts DESC, n.event_id DESC
    ), threads AS (
        SELECT parent, room, count(*) AS count, bool_or(sender = %s) AS participated,
            (array_agg(ordinal ORDER BY depth DESC, position DESC))[1] AS ordinal
        FROM c WHERE rel_type = 'm.thread' AND rootable GROUP BY parent, room
    ), mentions AS (
        SELECT c.parent, array_agg(n.event_id ORDER BY c.depth, c.position) AS ids
        FROM c JOIN events n USING (room, ordinal) WHERE c.rel_type = 'm.reference' GROUP BY c.parent
    ), found AS (
        SELECT parent, 'm.replace' AS rel_type, room, ordinal, 0 AS count, false AS participated, NULL::text[] AS ids
        FROM edits
        UNION ALL SELECT parent, 'm.thread', room, ordinal, count, participated, NULL FROM threads
        UNION ALL SELECT parent, 'm.reference', NULL, NULL, 0, false, ids FROM mentions
    )
    SELECT f.parent, f.rel_type, f.count, f.participated, f.ids, {EVENT_COLUMNS}
    FROM found f LEFT JOIN events e ON e.room = f.room AND e.ordinal = f.ordinal {EVENT_JOINS}"""  # noqa: S608
)

# The newest event of a thread stands for it.
_THREADS = f"""SELECT t.latest_depth, t.latest_position, {EVENT_COLUMNS}
    FROM (
        SELECT r.depth AS latest_depth, r.position AS latest_position, root.ordinal
        FROM event_relations r JOIN events root ON root.event_id = r.relates_to AND root.room = r.room
        WHERE r.room = %(room)s AND r.rel_type = 'm.thread' AND r.bundled AND r.position <= %(upto)s
          AND (r.depth, r.position) < (%(depth)s, %(position)s) AND r.sender <> ALL (%(ignored)s::text[])
          AND root.flags = 0 AND root.state_key IS NULL
          AND NOT EXISTS (
            SELECT FROM event_relations n
            WHERE n.room = r.room AND n.relates_to = r.relates_to AND n.rel_type = 'm.thread' AND n.bundled
              AND (n.depth, n.position) > (r.depth, r.position) AND n.position <= %(upto)s
              AND n.sender <> ALL (%(ignored)s::text[]))
          AND (%(participant)s::text IS NULL OR root.sender = %(participant)s OR EXISTS (
            SELECT FROM event_relations m
            WHERE m.room = r.room AND m.relates_to = r.relates_to AND m.rel_type = 'm.thread'
              AND m.sender = %(participant)s))
        ORDER BY r.depth DESC, r.position DESC LIMIT %(limit)s
    ) AS t JOIN events e ON e.room = %(room)s AND e.ordinal = t.ordinal {EVENT_JOINS}
    ORDER BY t.latest_depth DESC, t.latest_position DESC"""  # noqa: S608


class Parent(NamedTuple):
    """An event to find bundles for. `upto`: children at higher positions don't count."""

    room: int
    event_id: str
    upto: int
    sender: str
    type: str
    editable: bool
    rootable: bool
    """Whether edits and threads of it are valid."""


class Bundle(NamedTuple):
    """What the children of one relation type add up to."""

    parent: str
    rel_type: str
    size: int
    participated: bool
    """Of threads: how many events, and whether the user sent any."""
    event_ids: list[str] | None
    """Of references."""
    event: StoredEvent | None
    """The edit in force, or the thread's last event."""


class ThreadRoot(NamedTuple):
    """A thread by its root and the place of its last event."""

    latest: TimelinePlace
    root: StoredEvent


class RelationStore:
    """Reads relations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def children(
        self,
        room: int,
        parent: str,
        start: TimelinePlace,
        *,
        backwards: bool,
        limit: int,
        rel_type: str | None = None,
        event_type: str | None = None,
        recurse: bool = False,
    ) -> list[StoredEvent]:
        """Up to `limit` children before (or after) a place, nearest first; `recurse`: children's children too, if what
        leads to them passes the same conditions."""
        sql = (_DESCENDANTS if recurse else _CHILDREN).format(**(_BACKWARDS if backwards else _FORWARDS))
        params = {
            "room": room,
            "parent": parent,
            "depth": start.depth,
            "position": start.position,
            "limit": limit,
            "rel_type": rel_type,
            "event_type": event_type,
        }
        rows = await self._database.fetch("relations_children", sql, params, retry=True)
        return [StoredEvent._make(row) for row in rows]

    async def annotations(self, room: int, parent: str, sender: str, event_type: str) -> list[str]:
        """The events of a type, as PDUs, by which a user annotates another, redacted ones not among them."""
        rows = await self._database.fetch(
            "relations_annotations", _ANNOTATIONS, (room, parent, sender, event_type)
        )
        return [str(row[0]) for row in rows]

    async def bundles(
        self, parents: Sequence[Parent], user_id: str, ignored: Collection[str]
    ) -> list[Bundle]:
        """Every bundle there is for those events, nothing of ignored users counted."""
        columns = [list(column) for column in zip(*parents, strict=True)]
        rows = await self._database.fetch(
            "relations_bundles", _BUNDLES, (*columns, sorted(ignored), user_id), retry=True
        )
        return [
            Bundle._make((*row[:5], None if row[5] is None else StoredEvent._make(row[5:]))) for row in rows
        ]

    async def threads(
        self,
        room: int,
        start: TimelinePlace,
        *,
        upto: int,
        limit: int,
        participant: str | None,
        ignored: Collection[str],
    ) -> list[ThreadRoot]:
        """Up to `limit` threads whose last event lies before a place, newest first."""
        params = {
            "room": room,
            "depth": start.depth,
            "position": start.position,
            "upto": upto,
            "limit": limit,
            "participant": participant,
            "ignored": sorted(ignored),
        }
        rows = await self._database.fetch("relations_threads", _THREADS, params)
        return [ThreadRoot(TimelinePlace(row[0], row[1]), StoredEvent._make(row[2:])) for row in rows]
