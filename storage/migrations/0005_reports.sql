-- SPDX-License-Identifier: Apache-2.0
-- What users reported to this server's administrators.

-- One row per report. Which columns are set says what was reported: an event in a room, a room, or a user.
CREATE TABLE reports (
    report bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_ts bigint NOT NULL,        -- milliseconds since 1970
    reporter text COLLATE "C" NOT NULL,
    room_id text COLLATE "C",
    event_id text COLLATE "C",
    user_id text COLLATE "C",           -- who was reported; with an event, its sender
    reason text,
    score int                           -- -100 (most offensive) to 0, from clients of older versions
);
CREATE INDEX reports_by_reporter ON reports (reporter, report);
