# SPDX-License-Identifier: Apache-2.0
"""What comes in from other servers: transactions, the events in them, and the events missing before those.

Owns everything between an authenticated request and `homeserver.rooms.intake`: reading PDUs, access control lists,
queues per room, fetching what is missing, and handing EDUs on. What a room makes of an event is the intake's.
"""
