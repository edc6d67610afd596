-- SPDX-License-Identifier: Apache-2.0
-- Who was let into which LiveKit room: whoever is no longer joined to the Matrix room is removed there, for as long as
-- they could come back with the token they have. Times are this database's clock.

CREATE TABLE livekit_tickets (
    livekit_room text COLLATE "C" NOT NULL,
    identity text COLLATE "C" NOT NULL,
    room_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    issued_ts bigint NOT NULL,          -- the newest
    lost_ts bigint,                     -- first seen outside the room since
    next_ts bigint NOT NULL,            -- not looked at before
    PRIMARY KEY (livekit_room, identity)
) WITH (fillfactor = 80);
CREATE INDEX livekit_tickets_next ON livekit_tickets (next_ts);
CREATE INDEX livekit_tickets_of_user ON livekit_tickets (user_id, issued_ts);

-- An event ends one participant's part: so there are no more rows than delayed events, which are bounded per user.
DROP INDEX delegated_leaves_by_delay;
CREATE UNIQUE INDEX delegated_leaves_by_delay ON delegated_leaves (delay_id);
