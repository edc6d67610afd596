-- SPDX-License-Identifier: Apache-2.0
-- Nearly all commits are to rooms that exist: one statement moves those, and what new rooms take is asked only where
-- some were not moved. The plan that knew of both took a quarter of the database's time for a message to begin and end.

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
-- p_siblings whether the process has others beside it that are not in server_processes
-- p_news    notifications of the channel `stream_parts` that come before it
--
-- Returns the position before the first, and for each room that was written its number and key. Rooms whose
-- head had moved, or one of whose transactions already stands, or whose alias is taken, are absent and wholly unwritten.
CREATE OR REPLACE FUNCTION commit_stream(
    p_count bigint, p_origin text, p_users json, p_rooms json, p_events json, p_state json,
    p_redactions json, p_writes json, p_news text[], p_siblings boolean,
    OUT before bigint, OUT written int[], OUT keys bigint[]
) LANGUAGE plpgsql AS $$
DECLARE
    v_kind text;
    v_payload text;
    v_parts int;
    v_lost bigint[];  -- rooms whose race was lost: told to the others, see RoomCache.changed
BEGIN
    UPDATE stream SET position = position + p_count RETURNING position - p_count INTO before;
    written := '{}';
    keys := '{}';
    IF p_rooms IS NOT NULL THEN
        WITH moved AS (
            UPDATE rooms SET head = rooms.head + 1, depth = b.depth, extremities = b.extremities,
                next_ordinal = b.next_ordinal, snapshot = b.snapshot, next_snapshot = b.next_snapshot,
                snapshot_weight = b.snapshot_weight, position = before + b.last
            FROM json_to_recordset(p_rooms) AS b(
                r int, room bigint, expected bigint, depth bigint, extremities int[], next_ordinal int, snapshot int,
                next_snapshot int, snapshot_weight int, last bigint, transactions uuid[])
            WHERE rooms.room = b.room AND rooms.head = b.expected
              AND (b.transactions IS NULL
                   OR NOT EXISTS (SELECT FROM events e WHERE e.transaction = ANY (b.transactions)))
            RETURNING b.r, rooms.room
        )
        SELECT coalesce(array_agg(r), '{}'), coalesce(array_agg(room), '{}') INTO written, keys FROM moved;
        IF cardinality(written) < json_array_length(p_rooms) THEN  -- some are new, or were too late
            WITH fresh AS MATERIALIZED (  -- of two rooms of the batch that want one id or one alias, the first gets it
                SELECT f.* FROM (
                    SELECT b.*, row_number() OVER (PARTITION BY b.room_id ORDER BY b.r) AS claim,
                        row_number() OVER (PARTITION BY b.alias ORDER BY b.r) AS alias_claim
                    FROM json_to_recordset(p_rooms) AS b(
                        r int, room_id text, version text, expected bigint, depth bigint, extremities int[],
                        next_ordinal int, snapshot int, next_snapshot int, snapshot_weight int, last bigint,
                        alias text, alias_creator text, published boolean)
                    WHERE b.expected = 0
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
                SELECT b.alias, made.room_id, b.alias_creator
                FROM made JOIN fresh b USING (room_id) WHERE b.alias IS NOT NULL
                ON CONFLICT (alias) DO NOTHING
            ), listed AS (
                INSERT INTO published_rooms (room)
                SELECT made.room FROM made JOIN fresh b USING (room_id) WHERE b.published
            )
            SELECT written || coalesce(array_agg(b.r), '{}'), keys || coalesce(array_agg(made.room), '{}')
            INTO written, keys FROM made JOIN fresh b USING (room_id);
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
    -- Read with the stream's row held: who comes is in the table before it reads the position, so it finds this commit
    -- below that position, or is found here.
    IF NOT p_siblings AND NOT EXISTS (SELECT FROM server_processes WHERE origin <> p_origin) THEN
        RETURN;
    END IF;
    v_payload := json_build_object('origin', p_origin, 'before', before, 'count', p_count, 'rooms', keys,
        'users', p_users, 'lost', v_lost)::text;
    IF octet_length(v_payload) > 7900 THEN  -- a notification's limit is 8,000 bytes
        SELECT count(pg_notify('stream_parts', concat(p_origin, e'\n', part))) INTO v_parts FROM (
            SELECT json_build_object('rooms', json_agg(room)) FROM unnest(keys) WITH ORDINALITY AS k(room, n) GROUP BY n / 300
            UNION ALL
            SELECT json_build_object('lost', json_agg(room)) FROM unnest(v_lost) WITH ORDINALITY AS k(room, n) GROUP BY n / 300
            UNION ALL
            SELECT json_build_object('users', json_agg(user_id))
            FROM json_array_elements_text(p_users) WITH ORDINALITY AS u(user_id, n) GROUP BY n / 25
        ) AS parts(part);
        v_payload := json_build_object('origin', p_origin, 'before', before, 'count', p_count, 'parts', v_parts)::text;
    END IF;
    IF p_news IS NOT NULL THEN
        PERFORM pg_notify('stream_parts', part) FROM unnest(p_news) AS part;
    END IF;
    PERFORM pg_notify('stream', v_payload);
END
$$;
