-- SPDX-License-Identifier: Apache-2.0
-- An event that came with altered content, of which only the redacted form was kept, came again as it was sent.

-- {room, expected, ordinal, was, pdu, relation: {relates_to, rel_type, bundled} or null, summaries: [...] or null}
-- Nothing happens if the room has moved on, or the event is no longer what it was.
CREATE FUNCTION write_restored_event(rows json, before bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    x record;
    v_at bigint;
BEGIN
    FOR x IN SELECT * FROM json_to_recordset(rows) AS r(
        i bigint, room bigint, expected bigint, ordinal int, was text, pdu text, relation json, summaries json)
    LOOP
        v_at := before + x.i;
        PERFORM 1 FROM rooms r WHERE r.room = x.room AND r.head = x.expected FOR UPDATE;
        CONTINUE WHEN NOT FOUND;
        UPDATE events e SET pdu = x.pdu
        WHERE e.room = x.room AND e.ordinal = x.ordinal AND e.pdu = x.was AND e.redacted_by IS NULL;
        CONTINUE WHEN NOT FOUND;
        UPDATE rooms r SET head = r.head + 1, position = v_at WHERE r.room = x.room;
        INSERT INTO event_relations (room, relates_to, depth, position, ordinal, sender, type, rel_type, bundled)
        SELECT e.room, l.relates_to, e.depth, e.position, e.ordinal, e.sender, e.type, l.rel_type, l.bundled
        FROM events e, json_to_record(x.relation) AS l(relates_to text, rel_type text, bundled boolean)
        WHERE x.relation IS NOT NULL AND e.room = x.room AND e.ordinal = x.ordinal
        ON CONFLICT DO NOTHING;
        IF x.summaries IS NOT NULL THEN
            PERFORM commit_state(json_build_object('summaries', x.summaries), v_at - 1, ARRAY[0], ARRAY[x.room]);
        END IF;
        -- From nobody, so that every process, the writer's too, forgets the event as it was.
        PERFORM pg_notify('stream', json_build_object('origin', '', 'before', v_at - 1, 'count', 1,
            'rooms', ARRAY[x.room], 'users', '{}'::text[])::text);
    END LOOP;
END
$$;
