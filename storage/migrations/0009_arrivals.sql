-- SPDX-License-Identifier: Apache-2.0
-- Coming into rooms of other servers: what is known of a room before this server is in it, the one commit by which it
-- is, and rooms that this server is in while most of their members are still unknown to it.

-- A room entered by the short answer to a join (server-server API, `omit_members`). The row goes in the commit that
-- makes the room whole, so `rooms.head` and it never contradict each other.
CREATE TABLE partial_rooms (
    room bigint PRIMARY KEY,
    event_id text COLLATE "C" NOT NULL,    -- the join: the whole state is asked for as it was before it
    snapshot int NOT NULL,                 -- the state before it as far as it is known
    destination text NOT NULL,             -- the server that let us in, asked first
    servers text[] NOT NULL,               -- the servers in the room, as that one said
    attempts int NOT NULL DEFAULT 0,
    not_before timestamptz NOT NULL DEFAULT now(),    -- when to ask again
    leased_until timestamptz NOT NULL DEFAULT '-infinity'  -- a process works at it until then
);

-- A room of which nothing but its id is known yet; its key either way. The version of one that was never entered is what
-- was told last: whoever was the first to name it may have lied. Null for one that is known to be of another version.
CREATE FUNCTION room_stub(p_room_id text, p_version text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE v_room bigint; v_version text;
BEGIN
    LOOP
        SELECT room, version INTO v_room, v_version FROM rooms WHERE room_id = p_room_id;
        IF FOUND AND v_version = p_version THEN RETURN v_room; END IF;
        IF FOUND THEN
            UPDATE rooms SET version = p_version, head = head + 1 WHERE room = v_room AND extremities = '{}';
            RETURN CASE WHEN FOUND THEN v_room END;
        END IF;
        INSERT INTO rooms (room_id, version, head, depth, extremities, next_ordinal, snapshot, next_snapshot,
            snapshot_weight, position)
        VALUES (p_room_id, p_version, 1, 0, '{}', 1, 0, 1, 0, 0) ON CONFLICT (room_id) DO NOTHING
        RETURNING room INTO v_room;
        IF FOUND THEN RETURN v_room; END IF;
    END LOOP;
END
$$;

-- Moves rooms without the engine: in by a join elsewhere, in or out of a room's doorway (an invite, a knock, their end),
-- or from partly known to known. Each row takes one position and is a compare-and-swap like a batch of commit_stream;
-- one whose head had moved is left out wholly, and so is one that is written again.
--
-- {i, room, expected, head: {version, depth, extremities, snapshot, next_snapshot, snapshot_weight}, each or all null,
--  event: a row of `events` | null, state: as commit_stream's | null, gaps: [{missing_event_id, ordinal, depth}],
--  partial: {event_id, snapshot, destination, servers} | null, completion: see complete_partial_room | null}
CREATE FUNCTION write_arrival(rows json, before bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    x record;
    v_at bigint;
BEGIN
    FOR x IN SELECT * FROM json_to_recordset(rows) AS r(
        i bigint, room bigint, expected bigint, head json, event json, state json, gaps json, partial json,
        completion json)
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
        -- The batch's own notification does not name the room; from nobody, so that the writer hears it too.
        PERFORM pg_notify('stream', json_build_object('origin', '', 'before', v_at - 1, 'count', 1,
            'rooms', ARRAY[x.room], 'users', '{}'::text[])::text);
    END LOOP;
END
$$;

-- The event by which this server is in; it may lie about already as one whose place was unknown.
CREATE FUNCTION place_arriving_event(p_room bigint, p_event json, p_position bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO events (room, ordinal, position, depth, origin_server_ts, snapshot, current_snapshot, replaces,
        visibility, flags, event_id, type, state_key, sender, auth_chain, pdu)
    SELECT p_room, e.ordinal, p_position, e.depth, e.origin_server_ts, e.snapshot, e.current_snapshot, e.replaces,
        e.visibility, 0, e.event_id, e.type, e.state_key, e.sender, decode(e.auth_chain, 'base64'), e.pdu
    FROM json_to_record(p_event) AS e(
        ordinal int, depth bigint, origin_server_ts bigint, snapshot int, current_snapshot int, replaces int,
        visibility smallint, event_id text, type text, state_key text, sender text, auth_chain text, pdu text)
    ON CONFLICT (room, ordinal) DO UPDATE SET position = excluded.position, snapshot = excluded.snapshot,
        current_snapshot = excluded.current_snapshot, replaces = excluded.replaces, visibility = excluded.visibility,
        flags = 0;
END
$$;

-- What became known of a partial room: {checkpoints: [{snapshot, checkpoint}], removals: [{snapshot, removed}],
-- replaced: [{ordinal, replaces}], failed: [ordinal]}.
CREATE FUNCTION complete_partial_room(p_room bigint, p_completion json) RETURNS void LANGUAGE sql AS $$
    UPDATE state_snapshots s SET checkpoint = decode(x.checkpoint, 'base64')
    FROM json_to_recordset(p_completion -> 'checkpoints') AS x(snapshot int, checkpoint text)
    WHERE s.room = p_room AND s.snapshot = x.snapshot;

    UPDATE state_snapshots s SET removed = s.removed || x.removed
    FROM json_to_recordset(p_completion -> 'removals') AS x(snapshot int, removed int[])
    WHERE s.room = p_room AND s.snapshot = x.snapshot;

    UPDATE events e SET replaces = x.replaces
    FROM json_to_recordset(p_completion -> 'replaced') AS x(ordinal int, replaces int)
    WHERE e.room = p_room AND e.ordinal = x.ordinal;

    UPDATE events e SET flags = e.flags | 2
    FROM json_array_elements_text(p_completion -> 'failed') AS x(ordinal)
    WHERE e.room = p_room AND e.ordinal = x.ordinal::int;

    DELETE FROM partial_rooms WHERE room = p_room;
$$;
