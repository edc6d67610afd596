# SPDX-License-Identifier: Apache-2.0
"""What every client's scenario has in common: the messages sent and the state a private room starts with."""

MESSAGES = [f"message {number}" for number in range(10)]

# `createRoom` with a name, a topic and the preset `private_chat`, whatever else the server may add.
STATE = {
    "m.room.create",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
    "m.room.member",
    "m.room.name",
    "m.room.power_levels",
    "m.room.topic",
}
