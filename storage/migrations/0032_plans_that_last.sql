-- SPDX-License-Identifier: Apache-2.0
-- A connection keeps the plans of a function's statements until the tables are analyzed. Where random_page_cost is what it
-- is by default, those of a server's first seconds were made for tables of a few pages, of which all is read at once: while
-- a hundred events became ten thousand, each room of each commit went on reading them all to find out whether its
-- transactions stand, and a message took ten times of the database's time, until autovacuum came by. Everything that a
-- commit looks for has an index; its plans use it from the start, those of what commit_stream calls, too.
ALTER FUNCTION commit_stream(bigint, text, json, json, json, json, json, json, text[], boolean) SET enable_seqscan TO off;
