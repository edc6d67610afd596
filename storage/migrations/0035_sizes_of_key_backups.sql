-- SPDX-License-Identifier: Apache-2.0
-- How many keys a backup of room keys has, and how large they are, stands beside it: both are bounded, and the count is
-- told at every upload. Triggers keep it, so that it is right whichever release writes the keys.

-- What a key takes of an answer that holds it: its texts, and what stands around them. Inlined where it stands in a query,
-- so that the texts themselves are not read for it.
CREATE FUNCTION backed_up_key_bytes(room_id text, session_id text, session_data text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT 128::bigint + octet_length(room_id) + octet_length(session_id) + octet_length(session_data)
$$;

-- Counted before anything is locked, as it may take a while; `etag` tells what changed since.
CREATE TEMPORARY TABLE counted ON COMMIT DROP AS
SELECT b.user_id, b.version, b.etag, count(k.user_id) AS keys,
    coalesce(sum(backed_up_key_bytes(k.room_id, k.session_id, k.session_data)), 0)::bigint AS bytes
FROM key_backups b LEFT JOIN backed_up_keys k ON k.user_id = b.user_id AND k.version = b.version
WHERE NOT b.deleted GROUP BY b.user_id, b.version;

ALTER TABLE key_backups
    ADD COLUMN keys bigint NOT NULL DEFAULT 0,   -- how many it has
    ADD COLUMN bytes bigint NOT NULL DEFAULT 0;  -- of all of them, see backed_up_key_bytes

CREATE FUNCTION weigh_backed_up_keys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        UPDATE key_backups b SET keys = b.keys + c.keys, bytes = b.bytes + c.bytes
        FROM (SELECT user_id, version, count(*) AS keys,
                  sum(backed_up_key_bytes(room_id, session_id, session_data)) AS bytes
              FROM came GROUP BY user_id, version) AS c
        WHERE b.user_id = c.user_id AND b.version = c.version;
    ELSIF TG_OP = 'DELETE' THEN
        UPDATE key_backups b SET keys = b.keys - c.keys, bytes = b.bytes - c.bytes
        FROM (SELECT user_id, version, count(*) AS keys,
                  sum(backed_up_key_bytes(room_id, session_id, session_data)) AS bytes
              FROM went GROUP BY user_id, version) AS c
        WHERE b.user_id = c.user_id AND b.version = c.version;
    ELSE  -- a better key took the place of one
        UPDATE key_backups b SET bytes = b.bytes + c.bytes
        FROM (SELECT user_id, version, sum(bytes) AS bytes FROM (
                  SELECT user_id, version, backed_up_key_bytes(room_id, session_id, session_data) AS bytes FROM came
                  UNION ALL
                  SELECT user_id, version, -backed_up_key_bytes(room_id, session_id, session_data) FROM went
              ) AS changes GROUP BY user_id, version) AS c
        WHERE b.user_id = c.user_id AND b.version = c.version AND c.bytes <> 0;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER keys_came AFTER INSERT ON backed_up_keys REFERENCING NEW TABLE AS came
    FOR EACH STATEMENT EXECUTE FUNCTION weigh_backed_up_keys();
CREATE TRIGGER keys_changed AFTER UPDATE ON backed_up_keys REFERENCING OLD TABLE AS went NEW TABLE AS came
    FOR EACH STATEMENT EXECUTE FUNCTION weigh_backed_up_keys();
CREATE TRIGGER keys_went AFTER DELETE ON backed_up_keys REFERENCING OLD TABLE AS went
    FOR EACH STATEMENT EXECUTE FUNCTION weigh_backed_up_keys();

-- From here on nobody else writes keys until this is done.
UPDATE key_backups b SET keys = c.keys, bytes = c.bytes FROM counted c
WHERE c.user_id = b.user_id AND c.version = b.version AND c.etag = b.etag AND NOT b.deleted;
UPDATE key_backups b SET (keys, bytes) = (
    SELECT count(*), coalesce(sum(backed_up_key_bytes(k.room_id, k.session_id, k.session_data)), 0)
    FROM backed_up_keys k WHERE k.user_id = b.user_id AND k.version = b.version)
WHERE NOT b.deleted AND NOT EXISTS (
    SELECT FROM counted c WHERE c.user_id = b.user_id AND c.version = b.version AND c.etag = b.etag);
