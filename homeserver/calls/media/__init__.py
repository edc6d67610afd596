# SPDX-License-Identifier: Apache-2.0
"""Sound and pictures, in a process of its own (`python -m homeserver.calls.media`).

Owns everything that touches aiortc: answering a call by sending back what comes, calling through a relay and through
the echo account for an examination, trying TURN servers. The server's own process imports of this package only
`process`, which starts and watches that other process, and `messages`, what the two say to each other. Neither Matrix
nor the database is known here.
"""
