-- SPDX-License-Identifier: Apache-2.0
-- Messages to devices, kept until the device has processed them.

-- Requests that were carried out, so that a repeated one is not: of our clients by the digest of (user, device, endpoint,
-- transaction id), of other servers by that of (server, message id). Swept after some days.
CREATE TABLE to_device_transactions (
    transaction uuid PRIMARY KEY,
    ts bigint NOT NULL
);
CREATE INDEX to_device_transactions_by_ts ON to_device_transactions (ts);

CREATE TABLE to_device_messages (
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    message text NOT NULL,             -- JSON: {content, sender, type}
    PRIMARY KEY (user_id, device_id, position),
    FOREIGN KEY (user_id, device_id) REFERENCES devices ON DELETE CASCADE
);

-- Keeps messages: rows {i, origin, transaction, attempt, ts, user_id, device_id, message}. `device_id` may be `*`: each of
-- the user's devices; a row without user only says that its transaction was carried out. `attempt` tells apart two
-- requests with one transaction in one commit, of which only the first counts. Devices that do not exist are passed
-- over, and so are those with 10,000 messages waiting.
CREATE FUNCTION write_to_device(p_rows json, p_before bigint) RETURNS void LANGUAGE sql AS $$
    WITH asked AS MATERIALIZED (
        SELECT * FROM json_to_recordset(p_rows) AS x(
            i bigint, origin text, transaction uuid, attempt text, ts bigint, user_id text, device_id text, message text)
    ), first AS MATERIALIZED (
        SELECT DISTINCT ON (transaction) transaction, attempt, ts FROM asked ORDER BY transaction, i
    ), fresh AS (
        INSERT INTO to_device_transactions (transaction, ts) SELECT transaction, ts FROM first
        ON CONFLICT (transaction) DO NOTHING RETURNING transaction
    ), meant AS MATERIALIZED (  -- a device that is being deleted is waited for, in one order by all
        SELECT d.user_id, d.device_id, p_before + a.i AS position, a.message, a.origin
        FROM asked a JOIN first USING (transaction, attempt) JOIN fresh USING (transaction)
        JOIN devices d ON d.user_id = a.user_id AND (a.device_id = '*' OR d.device_id = a.device_id)
        WHERE NOT EXISTS (SELECT FROM to_device_messages q
            WHERE q.user_id = d.user_id AND q.device_id = d.device_id OFFSET 9999)
        ORDER BY d.user_id, d.device_id, a.i
        FOR KEY SHARE OF d
    ), kept AS (
        INSERT INTO to_device_messages (user_id, device_id, position, message)
        SELECT user_id, device_id, position, message FROM meant
    ), told AS (
        SELECT user_id, origin, max(position) AS position FROM meant GROUP BY user_id, origin
    )
    SELECT count(pg_notify('devices', json_build_array('messages', origin, position, user_id)::text)) FROM told
$$;
