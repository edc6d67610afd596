-- SPDX-License-Identifier: Apache-2.0
-- Keys of devices and users for end-to-end encryption, and whose list of devices changed when. What belongs to a
-- device of ours hangs on its row and goes with it. Keys are kept as JSON texts, as their owners signed them.

-- Identity keys of this server's devices, without `unsigned`.
CREATE TABLE device_keys (
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    keys text NOT NULL,                -- canonical JSON
    PRIMARY KEY (user_id, device_id),
    FOREIGN KEY (user_id, device_id) REFERENCES devices ON DELETE CASCADE
);

-- One-time keys. Of one that was claimed the row stays for a while without the key, so that an upload that is repeated
-- because its answer was lost does not bring it back.
CREATE TABLE one_time_keys (
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    algorithm text COLLATE "C" NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    upload bigint NOT NULL,            -- grows with each upload: keys are given out in this order
    key text,                          -- canonical JSON; null: claimed
    PRIMARY KEY (user_id, device_id, algorithm, key_id),
    FOREIGN KEY (user_id, device_id) REFERENCES devices ON DELETE CASCADE
);
CREATE INDEX one_time_keys_unclaimed ON one_time_keys (user_id, device_id, algorithm, upload, key_id)
    WHERE key IS NOT NULL;
CREATE SEQUENCE one_time_key_uploads;

-- What is given out when there is no one-time key left, as often as need be.
CREATE TABLE fallback_keys (
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    algorithm text COLLATE "C" NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    key text NOT NULL,                 -- canonical JSON
    used boolean NOT NULL DEFAULT false,
    PRIMARY KEY (user_id, device_id, algorithm),
    FOREIGN KEY (user_id, device_id) REFERENCES devices ON DELETE CASCADE
);

-- Cross-signing keys of our users, and of users of other servers whose lists are tracked (never `user_signing`).
CREATE TABLE cross_signing_keys (
    user_id text COLLATE "C" NOT NULL,
    usage text COLLATE "C" NOT NULL,   -- master, self_signing, user_signing
    public_key text COLLATE "C" NOT NULL,
    key text NOT NULL,                 -- canonical JSON with its owner's signatures
    PRIMARY KEY (user_id, usage)
);

-- Signatures that came later than the key they sign, by our users.
CREATE TABLE key_signatures (
    user_id text COLLATE "C" NOT NULL, -- whose key is signed
    key_id text COLLATE "C" NOT NULL,  -- a device id, or the public key of a master key
    signer_id text COLLATE "C" NOT NULL,
    signer_key_id text COLLATE "C" NOT NULL,  -- `ed25519:…`
    signature text NOT NULL,
    PRIMARY KEY (user_id, key_id, signer_id, signer_key_id)
);

-- Where each user's list of devices, or cross-signing keys, last changed; of users of other servers too.
CREATE TABLE device_lists (
    user_id text COLLATE "C" PRIMARY KEY,
    position bigint NOT NULL,
    stream_id bigint NOT NULL          -- counts the changes of our users' devices, as other servers are told of them
) WITH (fillfactor = 80);
CREATE INDEX device_lists_by_position ON device_lists (position);

-- Changes that stand but have no position yet. A transaction that changes what is told of a device adds a row; the
-- stream's next commit for that user takes them. So a change cannot be made and never be told.
CREATE TABLE device_list_dues (
    due bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL  -- empty: the user's cross-signing keys
);
CREATE INDEX device_list_dues_by_user ON device_list_dues (user_id);

-- Changes of our users' lists that other servers are still to be told of.
CREATE TABLE device_list_announcements (
    position bigint NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,  -- empty: the user's cross-signing keys
    stream_id bigint,                  -- null with cross-signing keys
    PRIMARY KEY (position, user_id, device_id)
);

-- Whose keys a user signed and when: news for that user's own devices only.
CREATE TABLE user_signatures (
    user_id text COLLATE "C" NOT NULL,
    target_id text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (user_id, target_id)
);

-- Users of other servers whose lists are kept here, while they share a room with one of ours.
CREATE TABLE remote_device_lists (
    user_id text COLLATE "C" PRIMARY KEY,
    stream_id bigint,                  -- of the newest change that is in; null: never read
    stale boolean NOT NULL DEFAULT true,  -- not to be believed: to be read again before it is used
    epoch bigint NOT NULL DEFAULT 0,   -- grows when it becomes stale, so that what is being read then is not believed
    retry_ts bigint NOT NULL DEFAULT 0,   -- not to be read by itself before (ms since 1970)
    tries int NOT NULL DEFAULT 0       -- in vain since it was last read
) WITH (fillfactor = 80);
CREATE INDEX remote_device_lists_stale ON remote_device_lists (retry_ts) WHERE stale;

CREATE TABLE remote_devices (
    user_id text COLLATE "C" NOT NULL REFERENCES remote_device_lists ON DELETE CASCADE,
    device_id text COLLATE "C" NOT NULL,
    display_name text,
    keys text,                         -- JSON; null: a device without keys
    PRIMARY KEY (user_id, device_id)
);

-- Who came into a room or went, in a stretch of the stream.
CREATE INDEX memberships_by_start ON memberships (room, since);
CREATE INDEX memberships_by_end ON memberships (room, until) WHERE until IS NOT NULL;

-- Identity keys changed: it is due to be told, and signatures of the old ones are void.
CREATE FUNCTION device_keys_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_user_id text := CASE WHEN TG_OP = 'DELETE' THEN OLD.user_id ELSE NEW.user_id END;
    v_device_id text := CASE WHEN TG_OP = 'DELETE' THEN OLD.device_id ELSE NEW.device_id END;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM key_signatures WHERE user_id = v_user_id AND key_id = v_device_id;
    END IF;
    INSERT INTO device_list_dues (user_id, device_id) VALUES (v_user_id, v_device_id);
    PERFORM pg_notify('device_list_dues', v_user_id);
    RETURN NULL;
END
$$;
CREATE TRIGGER device_keys_changed AFTER INSERT OR UPDATE OF keys OR DELETE ON device_keys
    FOR EACH ROW EXECUTE FUNCTION device_keys_changed();

-- A device with keys was renamed.
CREATE FUNCTION device_renamed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO device_list_dues (user_id, device_id)
    SELECT user_id, device_id FROM device_keys WHERE user_id = NEW.user_id AND device_id = NEW.device_id;
    IF FOUND THEN
        PERFORM pg_notify('device_list_dues', NEW.user_id);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER device_renamed AFTER UPDATE OF display_name ON devices
    FOR EACH ROW WHEN (OLD.display_name IS DISTINCT FROM NEW.display_name) EXECUTE FUNCTION device_renamed();

-- A stay ended. Of a user of another server we may hear no more changes; and if nobody of ours is left in the room, of
-- none of its members. It is said of some of whom we still hear: that costs reading their list once more.
CREATE FUNCTION device_lists_out_of_sight() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM remote_device_lists) THEN
        RETURN NULL;
    END IF;
    IF NOT EXISTS (SELECT FROM users u WHERE u.user_id = NEW.user_id) THEN
        UPDATE remote_device_lists SET stale = true, epoch = epoch + 1 WHERE user_id = NEW.user_id;
    ELSIF NOT EXISTS (
        SELECT FROM memberships m JOIN users u USING (user_id)
        WHERE m.room = NEW.room AND m.until IS NULL AND m.membership = 'join' AND m.user_id <> NEW.user_id
    ) THEN
        UPDATE remote_device_lists SET stale = true, epoch = epoch + 1
        WHERE user_id IN (SELECT m.user_id FROM memberships m
            WHERE m.room = NEW.room AND m.until IS NULL AND m.membership = 'join');
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER device_lists_out_of_sight AFTER UPDATE OF until ON memberships
    FOR EACH ROW WHEN (OLD.membership = 'join' AND OLD.until IS NULL AND NEW.until IS NOT NULL)
    EXECUTE FUNCTION device_lists_out_of_sight();

-- Gives what is due of each user a position: rows {i, origin, user_id, announce}, `origin` the process that writes,
-- `announce` whether other servers are to be told. Every process is told on the channel `devices`, before the stream's
-- own notification of the same commit.
CREATE FUNCTION write_device_lists(p_rows json, p_before bigint) RETURNS void LANGUAGE sql AS $$
    WITH asked AS MATERIALIZED (
        SELECT user_id, max(i) AS i, max(origin) AS origin, bool_or(announce) AS announce
        FROM json_to_recordset(p_rows) AS x(i bigint, origin text, user_id text, announce boolean)
        GROUP BY user_id
    ), taken AS (
        DELETE FROM device_list_dues d USING asked a WHERE d.user_id = a.user_id RETURNING d.user_id, d.device_id
    ), due AS MATERIALIZED (
        SELECT user_id, device_id,
            CASE WHEN device_id <> '' THEN row_number() OVER (PARTITION BY user_id ORDER BY device_id = '', device_id) END
                AS number
        FROM (SELECT DISTINCT user_id, device_id FROM taken) AS t
    ), moved AS (
        INSERT INTO device_lists AS l (user_id, position, stream_id)
        SELECT d.user_id, p_before + a.i, count(d.number) FROM due d JOIN asked a USING (user_id) GROUP BY d.user_id, a.i
        ON CONFLICT (user_id) DO UPDATE SET position = excluded.position,
            stream_id = l.stream_id + excluded.stream_id
        RETURNING user_id, position, stream_id
    ), announced AS (
        INSERT INTO device_list_announcements (position, user_id, device_id, stream_id)
        SELECT m.position, d.user_id, d.device_id,
            m.stream_id - count(d.number) OVER (PARTITION BY d.user_id) + d.number
        FROM due d JOIN moved m USING (user_id) JOIN asked a USING (user_id) WHERE a.announce
    ), told AS (
        SELECT m.user_id, m.position, a.origin, (
            SELECT json_agg(s.room) FROM memberships s
            WHERE s.user_id = m.user_id AND s.until IS NULL AND s.membership = 'join') AS rooms
        FROM moved m JOIN asked a USING (user_id)
    )
    SELECT count(pg_notify('devices', json_build_array('lists', origin, position, user_id,
        CASE WHEN length(rooms::text) < 7000 THEN rooms END, rooms IS NULL)::text)) FROM told
$$;

-- Tells a device's owner that its one-time or fallback keys became more or fewer: rows {i, origin, user_id, device_id}.
CREATE FUNCTION write_key_counts(p_rows json, p_before bigint) RETURNS void LANGUAGE sql AS $$
    SELECT count(pg_notify('devices', json_build_array('counts', origin, p_before + i, user_id, device_id)::text))
    FROM json_to_recordset(p_rows) AS x(i bigint, origin text, user_id text, device_id text)
$$;

-- Users signed other users' master keys: rows {i, origin, user_id, target_id, key_id, signer_key_id, signature}.
CREATE FUNCTION write_user_signatures(p_rows json, p_before bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO key_signatures (user_id, key_id, signer_id, signer_key_id, signature)
    SELECT DISTINCT ON (target_id, key_id, user_id, signer_key_id) target_id, key_id, user_id, signer_key_id, signature
    FROM json_to_recordset(p_rows) AS x(
        i bigint, user_id text, target_id text, key_id text, signer_key_id text, signature text)
    ORDER BY target_id, key_id, user_id, signer_key_id, i DESC
    ON CONFLICT (user_id, key_id, signer_id, signer_key_id) DO UPDATE SET signature = excluded.signature;

    INSERT INTO user_signatures (user_id, target_id, position)
    SELECT user_id, target_id, p_before + max(i)
    FROM json_to_recordset(p_rows) AS x(i bigint, user_id text, target_id text) GROUP BY user_id, target_id
    ON CONFLICT (user_id, target_id) DO UPDATE SET position = excluded.position;

    PERFORM pg_notify('devices', json_build_array('signed', origin, p_before + i, user_id, target_id)::text)
    FROM json_to_recordset(p_rows) AS x(i bigint, origin text, user_id text, target_id text);
END
$$;
