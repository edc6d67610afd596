-- SPDX-License-Identifier: Apache-2.0
-- Events without what every event's JSON has and what stands in columns beside it: see storage/packing.py.
-- oldest code: 0026

-- The canonical JSON of an event, packed or not. Fields of a packed one: auth events, content, depth, hash, previous
-- events, signing key, signature, state key (with its name, or nothing). Inlined where it stands in a query, as long as
-- the room's id is used once.
CREATE FUNCTION event_pdu(pdu text, room_id text, origin_server_ts bigint, sender text, type text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN ascii(pdu) = 1 THEN format(
        '{"auth_events":["$%2$s"],"content":{%3$s},"depth":%4$s,"hashes":{"sha256":"%5$s"},"origin_server_ts":%10$s,'
        '"prev_events":["$%6$s"],"room_id":"%11$s","sender":"%12$s","signatures":{"%14$s":{"ed25519:%7$s":"%8$s"}}%9$s,'
        '"type":"%13$s"}',
        VARIADIC string_to_array(concat_ws(e'\x01',
            replace(replace(replace(pdu,
                e'\x02', '","msgtype":"m.text"'),
                e'\x03', '"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"'),
                e'\x04', ',"membership":"join"'),
            origin_server_ts, room_id, sender, type, substr(sender, strpos(sender, ':') + 1)), e'\x01'))
    ELSE pdu END
$$;

COMMENT ON COLUMN events.pdu IS 'canonical JSON, whole or packed: read it by event_pdu';

-- {room, expected, ordinal, was, pdu, relation: {relates_to, rel_type, bundled} or null, summaries: [...] or null}
-- Nothing happens if the room has moved on, or the event is no longer what it was.
CREATE OR REPLACE FUNCTION write_restored_event(rows json, before bigint) RETURNS void LANGUAGE plpgsql AS $$
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
        WHERE e.room = x.room AND e.ordinal = x.ordinal
          AND event_pdu(e.pdu, (SELECT r.room_id FROM rooms r WHERE r.room = e.room), e.origin_server_ts, e.sender, e.type)
              = x.was AND e.redacted_by IS NULL;
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

-- An index of three such keys is filled by halves only, of two nearly whole; those of one millisecond need no order.
CREATE INDEX events_by_ts ON events (room, origin_server_ts);
DROP INDEX events_by_time;
