-- SPDX-License-Identifier: Apache-2.0
-- Dehydrated devices (MSC3814): of each user at most one device that nobody is logged in with. It is sent room keys like
-- any other, and a later log-in opens it.

CREATE TABLE dehydrated_devices (
    user_id text COLLATE "C" PRIMARY KEY,
    device_id text COLLATE "C" NOT NULL,
    device_data text NOT NULL,         -- JSON object: the device's private keys, encrypted by its owner
    FOREIGN KEY (user_id, device_id) REFERENCES devices ON DELETE CASCADE
);

-- Whoever begins anew with another identity cannot open it any more.
CREATE FUNCTION master_key_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM devices d USING dehydrated_devices z
    WHERE z.user_id = OLD.user_id AND d.user_id = z.user_id AND d.device_id = z.device_id;
    IF FOUND THEN
        PERFORM pg_notify('tokens_revoked', OLD.user_id);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER master_key_changed AFTER UPDATE OF public_key ON cross_signing_keys
    FOR EACH ROW WHEN (NEW.usage = 'master' AND OLD.public_key <> NEW.public_key)
    EXECUTE FUNCTION master_key_changed();
