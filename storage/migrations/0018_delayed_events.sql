-- SPDX-License-Identifier: Apache-2.0
-- Events that are to be sent later (MSC4140). All times are this database's clock, so that processes need not agree on
-- theirs. Rows of events that were sent, cancelled or failed stay for a while, for those who ask what became of them.

CREATE TABLE delayed_events (
    delay_id text COLLATE "C" PRIMARY KEY,  -- long and random: who knows it may cancel, restart and send
    user_id text COLLATE "C" NOT NULL,
    transaction uuid,                       -- digest of the scheduling request: idempotence
    room_id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    state_key text COLLATE "C",
    content text NOT NULL,                  -- JSON
    delay_ms bigint NOT NULL,
    scheduled_ts bigint NOT NULL,           -- when it was scheduled or last restarted
    due_ts bigint NOT NULL,
    since bigint NOT NULL,                  -- stream position when it was scheduled: what another sets later goes before
    leased_until bigint,                    -- a process is sending it
    attempts int NOT NULL DEFAULT 0,        -- leases whose outcome is not known, the present one included
    finalised_ts bigint,                    -- sent if there is an event_id, failed if there is an error, else cancelled
    event_id text COLLATE "C",
    error text,                             -- JSON, a standard error response
    by_action boolean NOT NULL DEFAULT false  -- not by its time, but by somebody's wish
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX delayed_events_by_transaction ON delayed_events (transaction) WHERE transaction IS NOT NULL;
CREATE INDEX delayed_events_due ON delayed_events (due_ts) WHERE finalised_ts IS NULL;
CREATE INDEX delayed_events_of_user ON delayed_events (user_id, finalised_ts);
CREATE INDEX delayed_events_finalised ON delayed_events (finalised_ts) WHERE finalised_ts IS NOT NULL;
