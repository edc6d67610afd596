-- SPDX-License-Identifier: Apache-2.0
-- Server-side backups of room keys: encrypted by clients, kept as they are.

CREATE TABLE key_backups (
    user_id text COLLATE "C" NOT NULL REFERENCES users,
    version bigint NOT NULL,           -- counts the user's backups, deleted ones too; the greatest that is left is current
    algorithm text NOT NULL,
    auth_data text NOT NULL,           -- JSON object
    etag bigint NOT NULL DEFAULT 0,    -- counts the changes of its keys
    deleted boolean NOT NULL DEFAULT false,
    PRIMARY KEY (user_id, version)
);

CREATE TABLE backed_up_keys (
    user_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    room_id text COLLATE "C" NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    first_message_index bigint NOT NULL,
    forwarded_count bigint NOT NULL,
    is_verified boolean NOT NULL,
    session_data text NOT NULL,        -- JSON object
    PRIMARY KEY (user_id, version, room_id, session_id),
    FOREIGN KEY (user_id, version) REFERENCES key_backups ON DELETE CASCADE
);
