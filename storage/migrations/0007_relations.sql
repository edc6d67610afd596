-- SPDX-License-Identifier: Apache-2.0
-- Which events relate to which: children by parent, in the order of the timeline. A child that is redacted loses its
-- relation, and its row.

CREATE TABLE event_relations (
    room bigint NOT NULL,
    relates_to text COLLATE "C" NOT NULL,  -- event id of the parent, known here or not
    depth bigint NOT NULL,                 -- of the child, as in `events`; so are the next four
    position bigint NOT NULL,
    ordinal int NOT NULL,
    sender text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    rel_type text COLLATE "C" NOT NULL,
    bundled boolean NOT NULL,              -- whether it counts in the parent's aggregations
    PRIMARY KEY (room, relates_to, depth, position, ordinal)
);
CREATE INDEX event_relations_threads ON event_relations (room, depth, position)
    WHERE rel_type = 'm.thread' AND bundled;

-- The relations of commit_stream's events, for the rooms that were written.
CREATE FUNCTION commit_relations(p_rows json, before bigint, written int[], keys bigint[]) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO event_relations (room, relates_to, depth, position, ordinal, sender, type, rel_type, bundled)
    SELECT a.room, x.relates_to, x.depth, before + x.i, x.ordinal, x.sender, x.type, x.rel_type, x.bundled
    FROM json_to_recordset(p_rows) AS x(
        r int, i bigint, relates_to text, depth bigint, ordinal int, sender text, type text, rel_type text,
        bundled boolean)
    JOIN unnest(written, keys) AS a(r, room) USING (r)
$$;

-- What was redacted relates to nothing any more.
CREATE FUNCTION commit_lost_relations(p_redactions json, written int[], keys bigint[]) RETURNS void
LANGUAGE sql AS $$
    DELETE FROM event_relations e
    USING json_to_recordset(p_redactions) AS x(r int, ordinal int, relates_to text), unnest(written, keys) AS a(r, room)
    WHERE a.r = x.r AND e.room = a.room AND e.relates_to = x.relates_to AND e.ordinal = x.ordinal
$$;
