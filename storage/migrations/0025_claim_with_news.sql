-- SPDX-License-Identifier: Apache-2.0
-- A claim of keys and the news of it in one commit: two commits, of which the second told the first, cost a round trip
-- more, and a crash between them left the keys' owners untold.

-- Gives out keys: `p_wanted` is [[user, device, algorithm]], each device named once. Of each the oldest one-time key there
-- is, or else the fallback key; who has neither is left out.
--
-- keys    {user: {device: {`<algorithm>:<key id>`: key}}}, null if there is nothing to give
-- moved   [[user, device]]: who has a key less than before, or a fallback key that now is used; null: all
-- before  the position before the one at which that moved; null if nothing did
--
-- A one-time key is given once: keys are locked, those that others are giving out just then passed over. The stream is
-- held last, for as long as the commit takes.
CREATE FUNCTION claim_one_time_keys(
    p_origin text, p_wanted json, OUT keys text, OUT moved json, OUT before bigint
) LANGUAGE plpgsql AS $$
DECLARE
    v_moved json;
    v_all boolean;
BEGIN
    WITH wanted AS MATERIALIZED (
        SELECT w ->> 0 AS user_id, w ->> 1 AS device_id, w ->> 2 AS algorithm FROM json_array_elements(p_wanted) AS w
    ), picked AS MATERIALIZED (
        SELECT w.user_id, w.device_id, w.algorithm, k.key_id, k.key FROM wanted w
        CROSS JOIN LATERAL (
            SELECT o.key_id, o.key FROM one_time_keys o
            WHERE o.user_id = w.user_id AND o.device_id = w.device_id AND o.algorithm = w.algorithm
                AND o.key IS NOT NULL
            ORDER BY o.upload, o.key_id LIMIT 1 FOR UPDATE SKIP LOCKED
        ) AS k
    ), claimed AS (
        UPDATE one_time_keys o SET key = NULL FROM picked p
        WHERE o.user_id = p.user_id AND o.device_id = p.device_id AND o.algorithm = p.algorithm AND o.key_id = p.key_id
    ), spare AS MATERIALIZED (
        SELECT f.user_id, f.device_id, f.algorithm, f.key_id, f.key, f.used FROM wanted w
        JOIN fallback_keys f USING (user_id, device_id, algorithm)
        WHERE NOT EXISTS (SELECT FROM picked p
            WHERE p.user_id = w.user_id AND p.device_id = w.device_id AND p.algorithm = w.algorithm)
    ), unmarked AS MATERIALIZED (  -- who finds one locked leaves the mark to whoever is making it
        SELECT f.user_id, f.device_id, f.algorithm FROM fallback_keys f
        JOIN spare s USING (user_id, device_id, algorithm, key_id)
        WHERE NOT f.used FOR UPDATE OF f SKIP LOCKED
    ), marked AS (
        UPDATE fallback_keys f SET used = true FROM unmarked u
        WHERE f.user_id = u.user_id AND f.device_id = u.device_id AND f.algorithm = u.algorithm
    ), given AS (
        SELECT user_id, device_id, algorithm, key_id, key, true AS moved FROM picked
        UNION ALL SELECT user_id, device_id, algorithm, key_id, key, NOT used FROM spare
    )
    SELECT (
        SELECT '{' || string_agg(to_json(g.user_id)::text || ':{' || g.devices || '}', ',') || '}' FROM (
            SELECT user_id, string_agg(to_json(device_id)::text || ':{' || to_json(algorithm || ':' || key_id)::text
                || ':' || key || '}', ',') AS devices
            FROM given GROUP BY user_id) AS g
    ), (
        SELECT json_agg(json_build_array(g.user_id, g.device_id)) FROM given g WHERE g.moved
    ), (SELECT count(*) FROM given g WHERE g.moved) = (SELECT count(*) FROM wanted)
    INTO claim_one_time_keys.keys, v_moved, v_all;
    IF v_moved IS NOT NULL THEN
        SELECT c.before INTO claim_one_time_keys.before FROM commit_stream(1, p_origin, NULL, NULL, NULL, NULL, NULL,
            json_build_object('key_counts', json_build_array(
                json_build_object('i', 1, 'origin', p_origin, 'devices', v_moved)))) AS c;
    END IF;
    IF NOT v_all THEN
        claim_one_time_keys.moved := coalesce(v_moved, '[]');
    END IF;
END
$$;
