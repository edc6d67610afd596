# SPDX-License-Identifier: Apache-2.0
"""The proof of sync: random histories through the public API, replayed by an honest client and a plain model.

- `program`: what a history is made of, and how it is drawn.
- `world`: carries a history out, and keeps the log of what happened.
- `oracle`: what that log says each user may see, written from the specification alone.
- `transport`: the wires: HTTP with keep-alive, and a WebSocket.
- `client`: a device that believes what it is told, and nothing else.
- `promises`: what must hold between the three.
"""
