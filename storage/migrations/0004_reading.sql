-- SPDX-License-Identifier: Apache-2.0
-- What reading rooms' pasts needs beside the order of their timelines.

-- Which event stood nearest to a moment.
CREATE INDEX events_by_time ON events (room, origin_server_ts, position);

-- What somebody was called at a point of a timeline: their newest member event up to there.
CREATE INDEX events_of_members ON events (room, state_key, position) WHERE type = 'm.room.member';
