# SPDX-License-Identifier: Apache-2.0
"""The composition root: builds everything in order, in plain sight, and runs it.

`core` is what everything stands on (database, stream, rooms), `services` what the server decides and does, `endpoints`
the routes, `server` all of it from start to clean stop in one process. `premises` is what there is once per server;
`process` the life of a server of one process, `workers` that of one of several.

Nothing is imported here: the parent of several processes is to stay small.
"""
