# SPDX-License-Identifier: Apache-2.0
"""Everything between this server and others: finding them, their keys, what is sent, what is taken in.

Owns the server-server API in both directions. What a room makes of an event is `homeserver.rooms`'s.
"""
