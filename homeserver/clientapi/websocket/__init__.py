# SPDX-License-Identifier: Apache-2.0
"""The client API over one WebSocket: `docs/websocket.md` is the contract.

`frames` reads and writes what goes over the wire, `methods` does what a client asks for, `session` is one connection's
life, `wire` ties it to autobahn, `endpoint` lets clients in.
"""
