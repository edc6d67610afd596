-- SPDX-License-Identifier: Apache-2.0
-- Rooms that other servers write, too: their events come late, on branches, or without what was before them.

ALTER TABLE events
    ADD COLUMN current_snapshot int,   -- the room's state once the event had been received; null: it never was current
    ADD COLUMN after_snapshot int,     -- the state after it, where it did not simply continue the current state
    ADD COLUMN outbound boolean NOT NULL DEFAULT false;  -- this server must spread it to the others in the room

-- Until now a room's events were one line.
UPDATE events e SET current_snapshot = n.snapshot
FROM (
    SELECT room, ordinal, lead(snapshot) OVER (PARTITION BY room ORDER BY position) AS snapshot FROM events
) AS n
WHERE n.room = e.room AND n.ordinal = e.ordinal AND n.snapshot IS NOT NULL;
UPDATE events e SET current_snapshot = r.snapshot FROM rooms r
WHERE r.room = e.room AND e.position = r.position AND e.current_snapshot IS NULL;

CREATE INDEX events_outbound ON events (position) WHERE outbound;

-- The counter from which history takes its positions, downwards.
ALTER TABLE rooms ADD COLUMN oldest_position bigint NOT NULL DEFAULT 0;

-- Previous events that nobody here has: the backward ends of a room's history.
CREATE TABLE event_gaps (
    room bigint NOT NULL,
    missing_event_id text COLLATE "C" NOT NULL,
    ordinal int NOT NULL,              -- of the event that names it
    depth bigint NOT NULL,             -- of that event
    PRIMARY KEY (room, missing_event_id, ordinal)
);
CREATE INDEX event_gaps_by_depth ON event_gaps (room, depth);
CREATE INDEX event_gaps_by_event ON event_gaps (room, ordinal);

-- Events of the stream before which something was missing when they came: a timeline does not go on across them.
CREATE TABLE timeline_gaps (
    room bigint NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (room, position)
);

-- Redactions that came before their targets.
CREATE TABLE waiting_redactions (
    room bigint NOT NULL,
    redacts text COLLATE "C" NOT NULL, -- event id of the target
    ordinal int NOT NULL,              -- of the redaction
    PRIMARY KEY (room, redacts, ordinal)
);

-- What events from outside bring besides their rows, for the rooms that were written.
--
-- p_state {received: [{r, event_id}], the events by id, which nobody waits for any more;
--          placed: [{r, i, ...}], events that were known as outliers and have their place now;
--          gaps: [{r, missing_event_id, ordinal, depth, i}]; waiting: [{r, redacts, ordinal}]}
CREATE FUNCTION commit_received(p_state json, before bigint, written int[], keys bigint[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF p_state -> 'placed' IS NOT NULL THEN
        UPDATE events e SET position = before + x.i, depth = x.depth, snapshot = x.snapshot,
            current_snapshot = x.current_snapshot, after_snapshot = x.after_snapshot, replaces = x.replaces,
            visibility = x.visibility, flags = x.flags, outbound = coalesce(x.outbound, false),
            auth_chain = coalesce(decode(x.auth_chain, 'base64'), e.auth_chain)
        FROM json_to_recordset(p_state -> 'placed') AS x(
            r int, i bigint, ordinal int, depth bigint, snapshot int, current_snapshot int, after_snapshot int,
            replaces int, visibility smallint, flags smallint, outbound boolean, auth_chain text)
        JOIN unnest(written, keys) AS a(r, room) USING (r)
        WHERE e.room = a.room AND e.ordinal = x.ordinal;
    END IF;

    DELETE FROM event_gaps g
    USING json_to_recordset(p_state -> 'received') AS x(r int, event_id text), unnest(written, keys) AS a(r, room)
    WHERE a.r = x.r AND g.room = a.room AND g.missing_event_id = x.event_id;

    DELETE FROM waiting_redactions w
    USING json_to_recordset(p_state -> 'received') AS x(r int, event_id text), unnest(written, keys) AS a(r, room)
    WHERE a.r = x.r AND w.room = a.room AND w.redacts = x.event_id;

    IF p_state -> 'gaps' IS NOT NULL THEN
        INSERT INTO event_gaps (room, missing_event_id, ordinal, depth)
        SELECT a.room, x.missing_event_id, x.ordinal, x.depth
        FROM json_to_recordset(p_state -> 'gaps') AS x(r int, missing_event_id text, ordinal int, depth bigint)
        JOIN unnest(written, keys) AS a(r, room) USING (r)
        ON CONFLICT DO NOTHING;
        INSERT INTO timeline_gaps (room, position)
        SELECT DISTINCT a.room, before + x.i FROM json_to_recordset(p_state -> 'gaps') AS x(r int, i bigint)
        JOIN unnest(written, keys) AS a(r, room) USING (r)
        WHERE x.i IS NOT NULL;
    END IF;

    IF p_state -> 'waiting' IS NOT NULL THEN
        INSERT INTO waiting_redactions (room, redacts, ordinal)
        SELECT a.room, x.redacts, x.ordinal
        FROM json_to_recordset(p_state -> 'waiting') AS x(r int, redacts text, ordinal int)
        JOIN unnest(written, keys) AS a(r, room) USING (r)
        ON CONFLICT DO NOTHING;
    END IF;
END
$$;

-- Stores history: events below every position of the stream, which nobody is told of, so the stream is not held.
-- `i` in the rows is the position itself. By compare-and-swap on the head; false if it had moved.
CREATE FUNCTION commit_history(p_room json, p_events json, p_state json, p_redactions json) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE v_room bigint;
BEGIN
    UPDATE rooms r SET head = r.head + 1, next_ordinal = x.next_ordinal, next_snapshot = x.next_snapshot,
        oldest_position = x.oldest_position
    FROM json_to_record(p_room) AS x(
        room bigint, expected bigint, next_ordinal int, next_snapshot int, oldest_position bigint)
    WHERE r.room = x.room AND r.head = x.expected RETURNING r.room INTO v_room;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO events (room, ordinal, position, depth, origin_server_ts, snapshot, after_snapshot, replaces, visibility,
        flags, event_id, type, state_key, sender, auth_chain, pdu)
    SELECT v_room, x.ordinal, x.i, x.depth, x.origin_server_ts, x.snapshot, x.after_snapshot, x.replaces, x.visibility,
        x.flags, x.event_id, x.type, x.state_key, x.sender, decode(x.auth_chain, 'base64'), x.pdu
    FROM json_to_recordset(p_events) AS x(
        i bigint, ordinal int, depth bigint, origin_server_ts bigint, snapshot int, after_snapshot int, replaces int,
        visibility smallint, flags smallint, event_id text, type text, state_key text, sender text, auth_chain text,
        pdu text);
    INSERT INTO state_snapshots (room, snapshot, parent, added, removed, checkpoint)
    SELECT v_room, x.snapshot, x.parent, x.added, x.removed, decode(x.checkpoint, 'base64')
    FROM json_to_recordset(p_state -> 'snapshots') AS x(
        snapshot int, parent int, added int[], removed int[], checkpoint text);
    PERFORM commit_received(p_state, 0, ARRAY[0], ARRAY[v_room]);
    PERFORM commit_relations(p_state -> 'relations', 0, ARRAY[0], ARRAY[v_room]);
    UPDATE events e SET redacted_by = x.redacted_by, pdu = x.pdu
    FROM json_to_recordset(p_redactions) AS x(ordinal int, redacted_by text, pdu text)
    WHERE e.room = v_room AND e.ordinal = x.ordinal AND e.redacted_by IS NULL;
    PERFORM commit_lost_relations(p_redactions, ARRAY[0], ARRAY[v_room]);
    RETURN true;
END
$$;

-- Commits a batch: any number of rooms by compare-and-swap, then any other writes of the stream.
--
-- p_rooms   [{r, room, room_id, version, expected, depth, extremities, next_ordinal, snapshot, next_snapshot,
--            snapshot_weight, last, transactions}], `r` the number other lists name it by, `expected` 0 for a new room,
--            `last` the offset of its newest event; a new room's may have {alias, alias_creator, published}
-- p_events  rows of `events` with {r, i}: `i` is the offset that gives the position
-- p_state   {snapshots: [...], current: [...], ended: [...], begun: [...], renewed: [...], summaries: [...],
--            relations: [...]}, and what `commit_received` takes
-- p_redactions [{r, ordinal, redacted_by, pdu, relates_to}]
-- p_writes  {kind: [{i, ...}]}, each list handed to the function write_<kind>(rows json, before bigint)
-- p_count   positions to take; p_origin and p_users go into the notification
--
-- Returns the position before the first, and for each room that was written its number and key. Rooms whose
-- head had moved, or one of whose transactions already stands, or whose alias is taken, are absent and wholly unwritten.
CREATE OR REPLACE FUNCTION commit_stream(
    p_count bigint, p_origin text, p_users json, p_rooms json, p_events json, p_state json,
    p_redactions json, p_writes json,
    OUT before bigint, OUT written int[], OUT keys bigint[]
) LANGUAGE plpgsql AS $$
DECLARE
    v_kind text;
    v_payload text;
    v_lost bigint[];  -- rooms whose race was lost: told to the others, see RoomCache.changed
BEGIN
    UPDATE stream SET position = position + p_count RETURNING position - p_count INTO before;
    written := '{}';
    keys := '{}';
    IF p_rooms IS NOT NULL THEN
        WITH b AS MATERIALIZED (
            SELECT * FROM json_to_recordset(p_rooms) AS b(
                r int, room bigint, room_id text, version text, expected bigint, depth bigint, extremities int[],
                next_ordinal int, snapshot int, next_snapshot int, snapshot_weight int, last bigint, transactions uuid[],
                alias text, alias_creator text, published boolean)
        ), moved AS (
            UPDATE rooms SET head = rooms.head + 1, depth = b.depth, extremities = b.extremities,
                next_ordinal = b.next_ordinal, snapshot = b.snapshot, next_snapshot = b.next_snapshot,
                snapshot_weight = b.snapshot_weight, position = before + b.last
            FROM b
            WHERE rooms.room = b.room AND rooms.head = b.expected
              AND (b.transactions IS NULL
                   OR NOT EXISTS (SELECT FROM events e WHERE e.transaction = ANY (b.transactions)))
            RETURNING b.r, rooms.room
        ), fresh AS MATERIALIZED (  -- of two rooms of the batch that want one id or one alias, the first gets it
            SELECT f.* FROM (
                SELECT b.*, row_number() OVER (PARTITION BY b.room_id ORDER BY b.r) AS claim,
                    row_number() OVER (PARTITION BY b.alias ORDER BY b.r) AS alias_claim
                FROM b WHERE b.expected = 0
            ) AS f
            WHERE f.claim = 1
              AND (f.alias IS NULL
                   OR f.alias_claim = 1 AND NOT EXISTS (SELECT FROM room_aliases a WHERE a.alias = f.alias))
        ), made AS (
            INSERT INTO rooms (room_id, version, head, depth, extremities, next_ordinal, snapshot, next_snapshot,
                snapshot_weight, position)
            SELECT room_id, version, 1, depth, extremities, next_ordinal, snapshot, next_snapshot, snapshot_weight,
                before + last
            FROM fresh
            ON CONFLICT (room_id) DO NOTHING
            RETURNING room, room_id
        ), named AS (  -- aliases are written under the stream's lock only, so what was free above still is
            INSERT INTO room_aliases (alias, room_id, creator)
            SELECT b.alias, made.room_id, b.alias_creator FROM made JOIN fresh b USING (room_id) WHERE b.alias IS NOT NULL
            ON CONFLICT (alias) DO NOTHING
        ), listed AS (
            INSERT INTO published_rooms (room) SELECT made.room FROM made JOIN fresh b USING (room_id) WHERE b.published
        ), done AS (
            SELECT r, room FROM moved
            UNION ALL SELECT b.r, made.room FROM made JOIN fresh b USING (room_id)
        )
        SELECT coalesce(array_agg(r), '{}'), coalesce(array_agg(room), '{}') INTO written, keys FROM done;
        IF cardinality(written) < json_array_length(p_rooms) THEN
            SELECT array_agg(b.room) INTO v_lost FROM json_to_recordset(p_rooms) AS b(r int, room bigint)
            WHERE b.room IS NOT NULL AND b.r <> ALL (written);
        END IF;

        INSERT INTO events (room, ordinal, position, depth, origin_server_ts, snapshot, current_snapshot,
            after_snapshot, replaces, visibility, flags, outbound, event_id, type, state_key, sender, transaction,
            transaction_id, device_id, auth_chain, pdu)
        SELECT a.room, x.ordinal, before + x.i, x.depth, x.origin_server_ts, x.snapshot, x.current_snapshot,
            x.after_snapshot, x.replaces, x.visibility, x.flags, coalesce(x.outbound, false), x.event_id, x.type,
            x.state_key, x.sender, x.transaction, x.transaction_id, x.device_id, decode(x.auth_chain, 'base64'), x.pdu
        FROM json_to_recordset(p_events) AS x(
            r int, i bigint, ordinal int, depth bigint, origin_server_ts bigint, snapshot int, current_snapshot int,
            after_snapshot int, replaces int, visibility smallint, flags smallint, outbound boolean, event_id text,
            type text, state_key text, sender text, transaction uuid, transaction_id text, device_id text,
            auth_chain text, pdu text)
        JOIN unnest(written, keys) AS a(r, room) USING (r);

        IF p_state -> 'snapshots' IS NOT NULL THEN
            PERFORM commit_state(p_state, before, written, keys);
        END IF;
        IF p_state -> 'relations' IS NOT NULL THEN  -- see migration 0007
            PERFORM commit_relations(p_state -> 'relations', before, written, keys);
        END IF;
        IF p_state -> 'received' IS NOT NULL THEN
            PERFORM commit_received(p_state, before, written, keys);
        END IF;
        IF p_redactions IS NOT NULL THEN
            UPDATE events e SET redacted_by = x.redacted_by, pdu = x.pdu
            FROM json_to_recordset(p_redactions) AS x(r int, ordinal int, redacted_by text, pdu text)
            JOIN unnest(written, keys) AS a(r, room) USING (r)
            WHERE e.room = a.room AND e.ordinal = x.ordinal AND e.redacted_by IS NULL;
            PERFORM commit_lost_relations(p_redactions, written, keys);
        END IF;
    END IF;
    IF p_writes IS NOT NULL THEN
        FOR v_kind IN SELECT json_object_keys(p_writes) LOOP
            EXECUTE format('SELECT %I($1, $2)', 'write_' || v_kind) USING p_writes -> v_kind, before;
        END LOOP;
    END IF;
    v_payload := json_build_object('origin', p_origin, 'before', before, 'count', p_count, 'rooms', keys,
        'users', p_users, 'lost', v_lost)::text;
    IF octet_length(v_payload) > 7900 THEN  -- a notification's limit is 8,000 bytes
        v_payload := json_build_object('origin', p_origin, 'before', before, 'count', p_count)::text;
    END IF;
    PERFORM pg_notify('stream', v_payload);
END
$$;
