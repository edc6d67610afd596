-- SPDX-License-Identifier: Apache-2.0
-- The messages of a request as columns: with an object and a text for each of two hundred devices, putting them together
-- and taking them apart cost more than keeping them.

-- As write_to_device, which processes of earlier releases still call, with rows {i, origin, transaction, ts, users,
-- devices, contents, sender, type}: `contents` has an object for each user and device, or a text that holds it.
CREATE FUNCTION write_device_messages(p_rows json, p_before bigint) RETURNS void LANGUAGE sql AS $$
    WITH asked AS MATERIALIZED (
        SELECT DISTINCT ON (transaction) * FROM json_to_recordset(p_rows) AS x(
            i bigint, origin text, transaction uuid, ts bigint, users text[], devices text[], contents json,
            sender text, type text)
        ORDER BY transaction, i
    ), fresh AS (
        INSERT INTO to_device_transactions (transaction, ts) SELECT transaction, ts FROM asked
        ON CONFLICT (transaction) DO NOTHING RETURNING transaction
    ), sent AS MATERIALIZED (
        SELECT m.user_id, m.device_id, p_before + a.i AS position, a.origin, '{"content":'
            || CASE json_typeof(m.content) WHEN 'string' THEN m.content #>> '{}' ELSE m.content::text END
            || ',"sender":' || to_json(a.sender)::text || ',"type":' || to_json(a.type)::text || '}' AS message
        FROM asked a JOIN fresh USING (transaction)
        CROSS JOIN LATERAL ROWS FROM (unnest(a.users), unnest(a.devices), json_array_elements(a.contents))
            AS m(user_id, device_id, content)
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
