-- SPDX-License-Identifier: Apache-2.0
-- The notification of an arrival names whose own it is, too. The users came with the batch's notification only, a moment
-- later: who looked in between was shown a position whose invite, join or leave was not known yet, and what lies at or
-- below a position that was shown is not told any more.

-- As in migration 0009, with users: [user_id] | null of each row. As many as one notification holds are in it; more come
-- before it on the channel `stream_parts`, which then are what tells the rooms, too.
CREATE OR REPLACE FUNCTION write_arrival(rows json, before bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    x record;
    v_at bigint;
BEGIN
    FOR x IN SELECT * FROM json_to_recordset(rows) AS r(
        i bigint, room bigint, expected bigint, head json, event json, state json, gaps json, partial json,
        completion json, users json)
    LOOP
        v_at := before + x.i;
        UPDATE rooms r SET head = r.head + 1, position = v_at,
            version = coalesce(x.head ->> 'version', r.version),
            depth = coalesce((x.head ->> 'depth')::bigint, r.depth),
            extremities = coalesce(
                (SELECT array_agg(e::int) FROM json_array_elements_text(x.head -> 'extremities') AS e), r.extremities),
            snapshot = coalesce((x.head ->> 'snapshot')::int, r.snapshot),
            next_snapshot = coalesce((x.head ->> 'next_snapshot')::int, r.next_snapshot),
            snapshot_weight = coalesce((x.head ->> 'snapshot_weight')::int, r.snapshot_weight)
        WHERE r.room = x.room AND r.head = x.expected;
        CONTINUE WHEN NOT FOUND;
        IF x.event IS NOT NULL THEN
            PERFORM place_arriving_event(x.room, x.event, v_at);
        END IF;
        IF x.state IS NOT NULL THEN
            PERFORM commit_state(x.state, v_at - 1, ARRAY[0], ARRAY[x.room]);
        END IF;
        IF x.head IS NOT NULL AND x.gaps IS NOT NULL THEN  -- the extremities of an earlier stay lead nowhere any more
            INSERT INTO event_gaps (room, missing_event_id, ordinal, depth)
            SELECT x.room, g.missing_event_id, g.ordinal, g.depth
            FROM json_to_recordset(x.gaps) AS g(missing_event_id text, ordinal int, depth bigint)
            ON CONFLICT DO NOTHING;
        END IF;
        IF x.event IS NOT NULL THEN
            DELETE FROM partial_rooms p WHERE p.room = x.room;
        END IF;
        IF x.partial IS NOT NULL THEN
            INSERT INTO partial_rooms (room, event_id, snapshot, destination, servers)
            SELECT x.room, p.event_id, p.snapshot, p.destination, p.servers
            FROM json_to_record(x.partial) AS p(event_id text, snapshot int, destination text, servers text[]);
        END IF;
        IF x.completion IS NOT NULL THEN
            PERFORM complete_partial_room(x.room, x.completion);
        END IF;
        PERFORM tell_arrival(x.room, v_at - 1, coalesce(x.users, '[]'));
    END LOOP;
END
$$;

-- The batch's own notification does not name the room; from nobody, so that the writer hears it too.
CREATE FUNCTION tell_arrival(p_room bigint, p_before bigint, p_users json) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_payload text := json_build_object('origin', '', 'before', p_before, 'count', 1, 'rooms', ARRAY[p_room],
        'users', p_users)::text;
    v_parts int;
BEGIN
    IF octet_length(v_payload) > 7900 THEN  -- a notification's limit is 8,000 bytes
        SELECT count(pg_notify('stream_parts', concat(e'\n', part))) INTO v_parts FROM (
            SELECT json_build_object('rooms', ARRAY[p_room])
            UNION ALL
            SELECT json_build_object('users', json_agg(user_id))
            FROM json_array_elements_text(p_users) WITH ORDINALITY AS u(user_id, n) GROUP BY n / 25
        ) AS parts(part);
        v_payload := json_build_object('origin', '', 'before', p_before, 'count', 1, 'parts', v_parts)::text;
    END IF;
    PERFORM pg_notify('stream', v_payload);
END
$$;
