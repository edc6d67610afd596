-- SPDX-License-Identifier: Apache-2.0
-- The processes that serve from this database, so that each knows whether there are others whose news it must look for
-- before it answers. Unlogged: a lease is worth nothing after a crash.
CREATE UNLOGGED TABLE server_processes (
    origin text PRIMARY KEY,
    company text COLLATE "C" NOT NULL,  -- processes of one company tell each other in shared memory
    host text,                          -- where `pid` means something; null: nobody can tell
    pid int NOT NULL,
    until timestamptz NOT NULL,
    told bigint NOT NULL DEFAULT 0      -- serial of its newest notification beside the stream
);
