-- SPDX-License-Identifier: Apache-2.0
-- A login token ends with the session that asked for it, and whoever closed an account departs more than once, as
-- requests that were under way at that moment may write after the first time.

-- The device whose session asked for it. Null: a release that did not note it made the token.
ALTER TABLE login_tokens ADD COLUMN device_id text COLLATE "C",
    ADD FOREIGN KEY (user_id, device_id) REFERENCES devices ON DELETE CASCADE;
DROP INDEX login_tokens_by_user;
CREATE INDEX login_tokens_by_device ON login_tokens (user_id, device_id);

-- When the account was closed, null for those closed before this was noted; and, of those that are departing, when
-- somebody is to take that up (null: now).
ALTER TABLE users ADD COLUMN closed_ts bigint, ADD COLUMN depart_ts bigint;
