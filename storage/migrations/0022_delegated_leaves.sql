-- SPDX-License-Identifier: Apache-2.0
-- Delayed events that end somebody's part in a group call, handed over by clients (MSC4195): they are restarted for as
-- long as that participant is connected to LiveKit, and sent when it no longer is. Times are this database's clock.

CREATE TABLE delegated_leaves (
    livekit_room text COLLATE "C" NOT NULL,
    identity text COLLATE "C" NOT NULL,
    delay_id text COLLATE "C" NOT NULL REFERENCES delayed_events ON DELETE CASCADE,
    delay_ms bigint NOT NULL,
    connected boolean NOT NULL DEFAULT false,   -- was seen there
    since_ts bigint NOT NULL,                   -- when it was handed over
    restarted_ts bigint NOT NULL,
    next_ts bigint NOT NULL,                    -- when it is looked at next, by whichever process
    PRIMARY KEY (livekit_room, identity)
) WITH (fillfactor = 70);
CREATE INDEX delegated_leaves_next ON delegated_leaves (next_ts);
CREATE INDEX delegated_leaves_by_delay ON delegated_leaves (delay_id);
