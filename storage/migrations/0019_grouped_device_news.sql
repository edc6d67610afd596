-- SPDX-License-Identifier: Apache-2.0
-- News of messages to devices and of key counts are told of many at once: a notification for each of two hundred
-- devices cost every process more than keeping the messages did. All of a notification are said to have moved at the
-- newest of their positions, which are shown together anyway.

-- Keeps messages: rows {i, origin, transaction, ts, messages}, each a request or a part of one, of which it is noted that
-- it was carried out; `messages` has {user_id, device_id, message}, the last JSON or a text that holds it, all kept at one
-- position: at most one for a device. `device_id` may be `*`: each of the user's devices. Of two rows with one
-- transaction the first counts. Devices that do not exist are passed over, and so are those with 10,000 messages waiting.
-- The notification: [`messages`, origin, position, [user]].
CREATE OR REPLACE FUNCTION write_to_device(p_rows json, p_before bigint) RETURNS void LANGUAGE sql AS $$
    WITH asked AS MATERIALIZED (
        SELECT DISTINCT ON (transaction) * FROM json_to_recordset(p_rows) AS x(
            i bigint, origin text, transaction uuid, ts bigint, messages json) ORDER BY transaction, i
    ), fresh AS (
        INSERT INTO to_device_transactions (transaction, ts) SELECT transaction, ts FROM asked
        ON CONFLICT (transaction) DO NOTHING RETURNING transaction
    ), sent AS MATERIALIZED (
        SELECT m.user_id, m.device_id, m.message, p_before + a.i AS position, a.origin
        FROM asked a JOIN fresh USING (transaction)
        CROSS JOIN LATERAL json_to_recordset(a.messages) AS m(user_id text, device_id text, message text)
        ORDER BY m.user_id, m.device_id, a.i
    ), meant AS MATERIALIZED (  -- a device that is being deleted is waited for, in one order by all
        SELECT s.user_id, d.device_id, s.position, s.message, s.origin
        FROM sent s CROSS JOIN LATERAL (
            SELECT e.device_id FROM devices e
            WHERE e.user_id = s.user_id AND (s.device_id = '*' OR e.device_id = s.device_id)
                AND NOT EXISTS (SELECT FROM to_device_messages q
                    WHERE q.user_id = e.user_id AND q.device_id = e.device_id OFFSET 9999)
            ORDER BY e.device_id FOR KEY SHARE OF e
        ) AS d
    ), kept AS (
        INSERT INTO to_device_messages (user_id, device_id, position, message)
        SELECT user_id, device_id, position, message FROM meant
    ), told AS (
        SELECT user_id, origin, max(position) AS position FROM meant GROUP BY user_id, origin
    ), portions AS (  -- of at most 8,000 bytes, which is what a notification holds
        SELECT user_id, origin, position, sum(octet_length(to_json(user_id)::text) + 2)
            OVER (PARTITION BY origin ORDER BY user_id ROWS UNBOUNDED PRECEDING) / 4000 AS portion
        FROM told
    ), notes AS (
        SELECT json_build_array('messages', origin, max(position), json_agg(user_id))::text AS note
        FROM portions GROUP BY origin, portion
    )
    SELECT count(pg_notify('devices', note)) FROM notes
$$;

-- Tells devices' owners that their one-time or fallback keys became more or fewer: rows {i, origin, devices}, the last
-- [[user, device]], all of which move at one position. The notification: [`counts`, origin, position, [[user, device]]].
CREATE OR REPLACE FUNCTION write_key_counts(p_rows json, p_before bigint) RETURNS void LANGUAGE sql AS $$
    WITH portions AS (
        SELECT i, origin, pair, sum(octet_length(pair::text) + 2)
            OVER (PARTITION BY i ORDER BY number ROWS UNBOUNDED PRECEDING) / 4000 AS portion
        FROM json_to_recordset(p_rows) AS x(i bigint, origin text, devices json)
        CROSS JOIN LATERAL json_array_elements(devices) WITH ORDINALITY AS d(pair, number)
    ), notes AS (
        SELECT json_build_array('counts', origin, p_before + i, json_agg(pair))::text AS note
        FROM portions GROUP BY i, origin, portion
    )
    SELECT count(pg_notify('devices', note)) FROM notes
$$;
