-- SPDX-License-Identifier: Apache-2.0
-- Whose turn recurring work is, of all processes: what one has done need not be done again for a while.
CREATE TABLE work_turns (
    work text PRIMARY KEY,
    company text COLLATE "C" NOT NULL,  -- see server_processes; of one that is gone the turn lapses
    until timestamptz NOT NULL
);
