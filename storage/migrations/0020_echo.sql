-- SPDX-License-Identifier: Apache-2.0
-- The echo account, which answers calls: one process on the database is it at a time.

CREATE TABLE echo_account (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    holder text NOT NULL,              -- the process, by its origin
    until timestamptz NOT NULL,        -- when its lease lapses
    position bigint NOT NULL           -- stream position up to which the account's events were read
) WITH (fillfactor = 20);

-- The calls it has. A row whose process is gone is of a call that nobody ended.
CREATE TABLE echo_calls (
    room_id text COLLATE "C",
    call_id text COLLATE "C",
    party_id text NOT NULL,            -- the echo's own
    version text NOT NULL,             -- of the call's events; 0 is the number
    PRIMARY KEY (room_id, call_id)
);
