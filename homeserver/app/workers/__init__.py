# SPDX-License-Identifier: Apache-2.0
"""A server of several equal processes on one machine, `workers: N`.

`parent` opens the sockets and the database once and looks after the workers: it starts them, replaces those that die,
and on SIGHUP one after the other, so that a new configuration and a new release take effect while the server serves.
`child` is what a worker runs, `orders` what it is told, `preparation` what is found out about a new configuration
before any worker is started or replaced. `roster` is the memory in which they see each other, `figures` how one of them
answers `/metrics` for all; `backoff` says when a worker that died is followed by another, `pulse` whether one hangs,
`listening` which sockets there are.

A worker is a Python of its own, not a fork, so that it runs the code that is on disk. It inherits the listening sockets
by descriptor, and never the database's connections.
"""
