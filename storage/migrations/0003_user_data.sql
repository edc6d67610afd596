-- SPDX-License-Identifier: Apache-2.0
-- What users keep on the server beside their rooms: receipts, account data, profiles, presence, and the index by
-- which people find each other. Timestamps (`…_ts`) are milliseconds since 1970.

-- How far a user has read a room: one row per user, kind and thread.
CREATE TABLE receipts (
    room bigint NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    private boolean NOT NULL,          -- m.read.private, which nobody but the user may learn of
    thread text COLLATE "C" NOT NULL,  -- '' unthreaded, 'main', or the event id of the thread's root
    event_id text COLLATE "C" NOT NULL,
    place bigint NOT NULL,             -- stream position of that event: a receipt only moves on
    ts bigint NOT NULL,
    position bigint NOT NULL,          -- of the receipt itself
    PRIMARY KEY (room, user_id, private, thread)
) WITH (fillfactor = 70);
CREATE INDEX receipts_by_position ON receipts (room, position);

-- Each receipt that moved is told to all processes, before the stream's own notification of the same commit.
CREATE FUNCTION write_receipts(p_rows json, p_before bigint) RETURNS void LANGUAGE sql AS $$
    WITH newest AS (
        SELECT DISTINCT ON (room, user_id, private, thread) *
        FROM json_to_recordset(p_rows) AS x(
            i bigint, room bigint, user_id text, private boolean, thread text, event_id text, place bigint, ts bigint)
        ORDER BY room, user_id, private, thread, place DESC, i DESC
    ), written AS (
        INSERT INTO receipts AS r (room, user_id, private, thread, event_id, place, ts, position)
        SELECT room, user_id, private, thread, event_id, place, ts, p_before + i FROM newest
        ON CONFLICT (room, user_id, private, thread) DO UPDATE SET event_id = excluded.event_id,
            place = excluded.place, ts = excluded.ts, position = excluded.position
        WHERE r.place < excluded.place
        RETURNING *
    )
    SELECT count(pg_notify('receipts',
        json_build_array(position, room, user_id, private, thread, event_id, place, ts)::text)) FROM written
$$;

-- What clients keep for a user, global or for a room. A deleted entry stays, without content, to tell other devices.
CREATE TABLE account_data (
    user_id text COLLATE "C" NOT NULL,
    room bigint NOT NULL,              -- 0: global
    type text COLLATE "C" NOT NULL,
    content text,                      -- JSON object; null: deleted
    position bigint NOT NULL,
    PRIMARY KEY (user_id, room, type)
);

-- A row with `expected` is written only if the entry still has that position (0: if there is none).
CREATE FUNCTION write_account_data(p_rows json, p_before bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    x record;
BEGIN
    FOR x IN SELECT * FROM json_to_recordset(p_rows) AS r(
        i bigint, user_id text, room bigint, type text, content text, expected bigint) ORDER BY i
    LOOP
        INSERT INTO account_data AS a (user_id, room, type, content, position)
        VALUES (x.user_id, x.room, x.type, x.content, p_before + x.i)
        ON CONFLICT (user_id, room, type) DO UPDATE SET content = excluded.content, position = excluded.position
        WHERE x.expected IS NULL OR a.position = x.expected;
    END LOOP;
END
$$;

-- Profiles of this server's users. A user who never set anything has no row.
CREATE TABLE profiles (
    user_id text COLLATE "C" PRIMARY KEY REFERENCES users,
    displayname text,
    avatar_url text,
    fields text NOT NULL DEFAULT '{}'  -- the other fields, as a JSON object
);

-- What outlives a user's presence. The status message is written when set, the rest now and then.
CREATE TABLE presence (
    user_id text COLLATE "C" PRIMARY KEY REFERENCES users,
    status_msg text,
    last_active_ts bigint NOT NULL,
    online boolean NOT NULL DEFAULT false  -- others may have been told so: after a restart they are told otherwise
) WITH (fillfactor = 70);
CREATE INDEX presence_online ON presence (user_id) WHERE online;

-- People by the words of their names. Users of this server who set no name are found by the index below instead.
CREATE TABLE user_directory (
    user_id text COLLATE "C" PRIMARY KEY,
    display_name text,
    avatar_url text,
    words tsvector NOT NULL            -- of the localpart and the display name, folded by homeserver/directory/words.py
);
CREATE INDEX user_directory_words ON user_directory USING gin (words);

CREATE FUNCTION localpart_words(p_user_id text) RETURNS tsvector LANGUAGE sql IMMUTABLE AS $$
    SELECT to_tsvector('pg_catalog.simple', translate(split_part(substr(p_user_id, 2), ':', 1), '._=/+-', '      '))
$$;
CREATE INDEX users_by_words ON users USING gin (localpart_words(user_id));
