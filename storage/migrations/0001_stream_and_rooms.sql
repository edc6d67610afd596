-- SPDX-License-Identifier: Apache-2.0
-- The stream of positions, rooms, their events and state, and the one function through which the stream is written.

-- One row: the last stream position taken. Its row lock is what serialises commits, so that whoever sees
-- position N sees everything at or below N; and being an ordinary row, every snapshot of the database
-- carries the position that belongs to it.
CREATE TABLE stream (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    position bigint NOT NULL
) WITH (fillfactor = 20);
INSERT INTO stream (position) VALUES (1);

-- A room and its head. `head` is the compare-and-swap counter: a writer that read another value lost the race.
CREATE TABLE rooms (
    room bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    room_id text COLLATE "C" NOT NULL UNIQUE,
    version text NOT NULL,
    head bigint NOT NULL,
    depth bigint NOT NULL,             -- greatest depth among the forward extremities
    extremities int[] NOT NULL,        -- ordinals of the forward extremities
    next_ordinal int NOT NULL,
    snapshot int NOT NULL,             -- the state after the extremities, which is the current state
    next_snapshot int NOT NULL,
    snapshot_weight int NOT NULL,      -- delta entries since the last checkpoint of that snapshot
    position bigint NOT NULL           -- of the newest event
) WITH (fillfactor = 50);

-- Every event known of a room. `ordinal` is dense and room-local (bitmaps of auth chains and state hold
-- ordinals); `position` is where the event entered the stream (0 or less: history that was never streamed).
CREATE TABLE events (
    room bigint NOT NULL,
    ordinal int NOT NULL,
    position bigint NOT NULL,
    depth bigint NOT NULL,
    origin_server_ts bigint NOT NULL,
    snapshot int,                      -- the state before the event; null for outliers
    replaces int,                      -- ordinal of the state event it replaced, whose content is `prev_content`
    visibility smallint NOT NULL,      -- history visibility in force at the event, see protocol/visibility.py
    flags smallint NOT NULL DEFAULT 0, -- 1 rejected, 2 soft-failed, 4 outlier
    event_id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    state_key text COLLATE "C",
    sender text COLLATE "C" NOT NULL,
    redacted_by text COLLATE "C",      -- event id of the redaction; `pdu` then holds the redacted form
    transaction uuid,                  -- digest of (user, device, endpoint, transaction id): idempotence
    transaction_id text,               -- as the sender's device wrote it, echoed to that device alone
    device_id text,
    auth_chain bytea,                  -- roaring bitmap of ordinals; state events only
    pdu text NOT NULL,                 -- canonical JSON
    PRIMARY KEY (room, ordinal)
);
CREATE UNIQUE INDEX events_by_id ON events (event_id);
CREATE INDEX events_by_position ON events (room, position);
CREATE INDEX events_by_depth ON events (room, depth, position);
CREATE UNIQUE INDEX events_by_transaction ON events (transaction) WHERE transaction IS NOT NULL;

-- The state at points of a room's history. A snapshot is its parent with `removed` taken out and `added` put
-- in (ordinals of state events); one with a checkpoint stands alone. A checkpoint is written only when the
-- deltas since the last one outnumber the state, so the entries written per change stay under two.
CREATE TABLE state_snapshots (
    room bigint NOT NULL,
    snapshot int NOT NULL,
    parent int,
    added int[] NOT NULL,
    removed int[] NOT NULL,
    checkpoint bytea,                  -- roaring bitmap of every ordinal of the state
    PRIMARY KEY (room, snapshot)
);

-- The state now, for reading many rooms at once.
CREATE TABLE current_state (
    room bigint NOT NULL,
    type text COLLATE "C" NOT NULL,
    state_key text COLLATE "C" NOT NULL,
    ordinal int NOT NULL,
    PRIMARY KEY (room, type, state_key)
);

-- Who was what in a room, as half-open intervals of stream positions [since, until). A profile change keeps
-- the interval and moves `ordinal` on.
CREATE TABLE memberships (
    room bigint NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    since bigint NOT NULL,
    until bigint,                      -- null: it stands
    membership text NOT NULL,
    ordinal int NOT NULL,              -- the newest member event of the interval
    sender text COLLATE "C" NOT NULL,
    forgotten boolean NOT NULL DEFAULT false,
    stripped_state text,               -- JSON array shown with an invite or knock, as it was then
    PRIMARY KEY (room, user_id, since)
);
CREATE UNIQUE INDEX memberships_standing ON memberships (user_id, room) WHERE until IS NULL;
CREATE INDEX memberships_of_user ON memberships (user_id, since);

-- What directories, summaries and invitations show of a room, kept with each state change.
CREATE TABLE room_summaries (
    room bigint PRIMARY KEY,
    name text,
    topic text,
    canonical_alias text,
    avatar_url text,
    join_rule text NOT NULL,
    guest_can_join boolean NOT NULL,
    world_readable boolean NOT NULL,
    room_type text,
    encryption text,
    joined_members int NOT NULL,
    invited_members int NOT NULL
) WITH (fillfactor = 70);

CREATE TABLE room_aliases (
    alias text COLLATE "C" PRIMARY KEY,
    room_id text COLLATE "C" NOT NULL,
    creator text COLLATE "C" NOT NULL
);
CREATE INDEX room_aliases_of_room ON room_aliases (room_id);

-- Rooms published in this server's directory.
CREATE TABLE published_rooms (
    room bigint PRIMARY KEY
);

-- Aliases change in commits of the stream only (`commit_stream`, the three functions below), whose lock makes
-- "is it free?" and "take it" one step.
CREATE FUNCTION write_room_alias(rows json, before bigint) RETURNS void LANGUAGE sql AS $$
    INSERT INTO room_aliases (alias, room_id, creator)
    SELECT alias, room_id, creator FROM json_to_recordset(rows) AS x(alias text, room_id text, creator text)
    ON CONFLICT (alias) DO NOTHING
$$;

CREATE FUNCTION write_room_alias_removal(rows json, before bigint) RETURNS void LANGUAGE sql AS $$
    DELETE FROM room_aliases a USING json_to_recordset(rows) AS x(alias text, room_id text)
    WHERE a.alias = x.alias AND a.room_id = x.room_id
$$;

-- A room is replaced: its aliases and its place in the directory pass to the new one.
CREATE FUNCTION write_room_replacement(rows json, before bigint) RETURNS void LANGUAGE sql AS $$
    UPDATE room_aliases a SET room_id = x.new_room_id
    FROM json_to_recordset(rows) AS x(old_room_id text, new_room_id text) WHERE a.room_id = x.old_room_id;
    UPDATE published_rooms p SET room = n.room
    FROM json_to_recordset(rows) AS x(old_room_id text, new_room_id text)
    JOIN rooms o ON o.room_id = x.old_room_id JOIN rooms n ON n.room_id = x.new_room_id
    WHERE p.room = o.room AND NOT EXISTS (SELECT FROM published_rooms q WHERE q.room = n.room)
$$;

-- Hides rooms that users have left, their past included, until they have something new to do with them.
CREATE FUNCTION write_forgotten(rows json, before bigint) RETURNS void LANGUAGE sql AS $$
    UPDATE memberships m SET forgotten = true
    FROM json_to_recordset(rows) AS x(room bigint, user_id text)
    WHERE m.user_id = x.user_id AND m.room = x.room
      AND (m.until IS NOT NULL OR m.membership IN ('leave', 'ban'))
$$;

-- Takes `count` positions and holds the stream until the transaction ends; returns the one before the first.
CREATE FUNCTION take_positions(count bigint) RETURNS bigint LANGUAGE sql AS $$
    UPDATE stream SET position = position + count RETURNING position - count
$$;

-- Commits a batch: any number of rooms by compare-and-swap, then any other writes of the stream.
--
-- p_rooms   [{r, room, room_id, version, expected, depth, extremities, next_ordinal, snapshot, next_snapshot,
--            snapshot_weight, last, transactions}], `r` the number other lists name it by, `expected` 0 for a new room,
--            `last` the offset of its newest event; a new room's may have {alias, alias_creator, published}
-- p_events  rows of `events` with {r, i}: `i` is the offset that gives the position
-- p_state   {snapshots: [...], current: [...], ended: [...], begun: [...], renewed: [...], summaries: [...],
--            relations: [...]}
-- p_redactions [{r, ordinal, redacted_by, pdu, relates_to}]
-- p_writes  {kind: [{i, ...}]}, each list handed to the function write_<kind>(rows json, before bigint)
-- p_count   positions to take; p_origin and p_users go into the notification
--
-- Returns the position before the first, and for each room that was written its number and key. Rooms whose
-- head had moved, or one of whose transactions already stands, or whose alias is taken, are absent and wholly unwritten.
CREATE FUNCTION commit_stream(
    p_count bigint, p_origin text, p_users json, p_rooms json, p_events json, p_state json,
    p_redactions json, p_writes json,
    OUT before bigint, OUT written int[], OUT keys bigint[]
) LANGUAGE plpgsql AS $$
DECLARE
    v_kind text;
    v_payload text;
    v_lost bigint[];  -- rooms whose race was lost: told to the others, see RoomCache.changed
BEGIN
    UPDATE stream SET position = position + p_count RETURNING position - p_count INTO before;
    written := '{}';
    keys := '{}';
    IF p_rooms IS NOT NULL THEN
        WITH b AS MATERIALIZED (
            SELECT * FROM json_to_recordset(p_rooms) AS b(
                r int, room bigint, room_id text, version text, expected bigint, depth bigint, extremities int[],
                next_ordinal int, snapshot int, next_snapshot int, snapshot_weight int, last bigint, transactions uuid[],
                alias text, alias_creator text, published boolean)
        ), moved AS (
            UPDATE rooms SET head = rooms.head + 1, depth = b.depth, extremities = b.extremities,
                next_ordinal = b.next_ordinal, snapshot = b.snapshot, next_snapshot = b.next_snapshot,
                snapshot_weight = b.snapshot_weight, position = before + b.last
            FROM b
            WHERE rooms.room = b.room AND rooms.head = b.expected
              AND (b.transactions IS NULL
                   OR NOT EXISTS (SELECT FROM events e WHERE e.transaction = ANY (b.transactions)))
            RETURNING b.r, rooms.room
        ), fresh AS MATERIALIZED (  -- of two rooms of the batch that want one id or one alias, the first gets it
            SELECT f.* FROM (
                SELECT b.*, row_number() OVER (PARTITION BY b.room_id ORDER BY b.r) AS claim,
                    row_number() OVER (PARTITION BY b.alias ORDER BY b.r) AS alias_claim
                FROM b WHERE b.expected = 0
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
            SELECT b.alias, made.room_id, b.alias_creator FROM made JOIN fresh b USING (room_id) WHERE b.alias IS NOT NULL
            ON CONFLICT (alias) DO NOTHING
        ), listed AS (
            INSERT INTO published_rooms (room) SELECT made.room FROM made JOIN fresh b USING (room_id) WHERE b.published
        ), done AS (
            SELECT r, room FROM moved
            UNION ALL SELECT b.r, made.room FROM made JOIN fresh b USING (room_id)
        )
        SELECT coalesce(array_agg(r), '{}'), coalesce(array_agg(room), '{}') INTO written, keys FROM done;
        IF cardinality(written) < json_array_length(p_rooms) THEN
            SELECT array_agg(b.room) INTO v_lost FROM json_to_recordset(p_rooms) AS b(r int, room bigint)
            WHERE b.room IS NOT NULL AND b.r <> ALL (written);
        END IF;

        INSERT INTO events (room, ordinal, position, depth, origin_server_ts, snapshot, replaces, visibility, flags,
            event_id, type, state_key, sender, transaction, transaction_id, device_id, auth_chain, pdu)
        SELECT a.room, x.ordinal, before + x.i, x.depth, x.origin_server_ts, x.snapshot, x.replaces, x.visibility,
            x.flags, x.event_id, x.type, x.state_key, x.sender, x.transaction, x.transaction_id, x.device_id,
            decode(x.auth_chain, 'base64'), x.pdu
        FROM json_to_recordset(p_events) AS x(
            r int, i bigint, ordinal int, depth bigint, origin_server_ts bigint, snapshot int, replaces int,
            visibility smallint, flags smallint, event_id text, type text, state_key text, sender text,
            transaction uuid, transaction_id text, device_id text, auth_chain text, pdu text)
        JOIN unnest(written, keys) AS a(r, room) USING (r);

        IF p_state -> 'snapshots' IS NOT NULL THEN
            PERFORM commit_state(p_state, before, written, keys);
        END IF;
        IF p_state -> 'relations' IS NOT NULL THEN  -- see migration 0007
            PERFORM commit_relations(p_state -> 'relations', before, written, keys);
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
    v_payload := json_build_object('origin', p_origin, 'before', before, 'count', p_count, 'rooms', keys,
        'users', p_users, 'lost', v_lost)::text;
    IF octet_length(v_payload) > 7900 THEN  -- a notification's limit is 8,000 bytes
        v_payload := json_build_object('origin', p_origin, 'before', before, 'count', p_count)::text;
    END IF;
    PERFORM pg_notify('stream', v_payload);
END
$$;

-- The state part of commit_stream, for the rooms that were written.
CREATE FUNCTION commit_state(p_state json, before bigint, written int[], keys bigint[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO state_snapshots (room, snapshot, parent, added, removed, checkpoint)
    SELECT a.room, x.snapshot, x.parent, x.added, x.removed, decode(x.checkpoint, 'base64')
    FROM json_to_recordset(p_state -> 'snapshots') AS x(
        r int, snapshot int, parent int, added int[], removed int[], checkpoint text)
    JOIN unnest(written, keys) AS a(r, room) USING (r);

    DELETE FROM current_state c
    USING json_to_recordset(p_state -> 'current') AS x(r int, type text, state_key text, ordinal int),
        unnest(written, keys) AS a(r, room)
    WHERE a.r = x.r AND x.ordinal IS NULL AND c.room = a.room AND c.type = x.type AND c.state_key = x.state_key;

    INSERT INTO current_state (room, type, state_key, ordinal)
    SELECT a.room, x.type, x.state_key, x.ordinal
    FROM json_to_recordset(p_state -> 'current') AS x(r int, type text, state_key text, ordinal int)
    JOIN unnest(written, keys) AS a(r, room) USING (r)
    WHERE x.ordinal IS NOT NULL
    ON CONFLICT (room, type, state_key) DO UPDATE SET ordinal = excluded.ordinal;

    UPDATE memberships m SET ordinal = x.ordinal
    FROM json_to_recordset(p_state -> 'renewed') AS x(r int, user_id text, ordinal int)
    JOIN unnest(written, keys) AS a(r, room) USING (r)
    WHERE m.room = a.room AND m.user_id = x.user_id AND m.until IS NULL;

    UPDATE memberships m SET until = before + x.i
    FROM json_to_recordset(p_state -> 'ended') AS x(r int, user_id text, i bigint)
    JOIN unnest(written, keys) AS a(r, room) USING (r)
    WHERE m.room = a.room AND m.user_id = x.user_id AND m.until IS NULL;

    INSERT INTO memberships (room, user_id, since, until, membership, ordinal, sender, stripped_state)
    SELECT a.room, x.user_id, before + x.i, before + x.until_i, x.membership, x.ordinal, x.sender, x.stripped_state
    FROM json_to_recordset(p_state -> 'begun') AS x(
        r int, user_id text, i bigint, until_i bigint, membership text, ordinal int, sender text, stripped_state text)
    JOIN unnest(written, keys) AS a(r, room) USING (r);

    INSERT INTO room_summaries (room, name, topic, canonical_alias, avatar_url, join_rule, guest_can_join,
        world_readable, room_type, encryption, joined_members, invited_members)
    SELECT a.room, x.name, x.topic, x.canonical_alias, x.avatar_url, x.join_rule, x.guest_can_join, x.world_readable,
        x.room_type, x.encryption, x.joined_members, x.invited_members
    FROM json_to_recordset(p_state -> 'summaries') AS x(
        r int, name text, topic text, canonical_alias text, avatar_url text, join_rule text, guest_can_join boolean,
        world_readable boolean, room_type text, encryption text, joined_members int, invited_members int)
    JOIN unnest(written, keys) AS a(r, room) USING (r)
    ON CONFLICT (room) DO UPDATE SET name = excluded.name, topic = excluded.topic,
        canonical_alias = excluded.canonical_alias, avatar_url = excluded.avatar_url, join_rule = excluded.join_rule,
        guest_can_join = excluded.guest_can_join, world_readable = excluded.world_readable,
        room_type = excluded.room_type, encryption = excluded.encryption, joined_members = excluded.joined_members,
        invited_members = excluded.invited_members;
END
$$;
