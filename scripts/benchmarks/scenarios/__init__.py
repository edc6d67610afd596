# SPDX-License-Identifier: Apache-2.0
"""What is measured: every scenario, in the order of the report. A new one is a function and a line here."""

from scripts.benchmarks.scenarios import accounts, calls, encryption, fanout, rooms, sending, syncing
from scripts.benchmarks.scenarios.shape import Scenario

SCENARIOS: tuple[Scenario, ...] = (
    Scenario("whoami", "authenticated no-op (whoami)", "request", accounts.whoami),
    Scenario("send-8-rooms", "send in 8 rooms, 8 senders", "event", sending.eight_rooms),
    Scenario("send-one-room", "send in a room of 20, one sender", "event", sending.one_sender),
    Scenario("send-one-room-10", "send in a room of 20, 10 senders", "event", sending.ten_senders),
    Scenario("fan-out-poll", "fan-out to 50 long-polls", "delivery", fanout.long_polls),
    Scenario(
        "fan-out-websocket",
        "fan-out to 50 WebSockets",
        "delivery",
        fanout.web_sockets,
        only="lares",
        compared_with="fan-out-poll",
    ),
    Scenario(
        "call-signalling", "invite to a call, 200 idle long-polls beside it", "invite", calls.signalling
    ),
    Scenario("initial-sync", "initial sync of {rooms} rooms", "sync", syncing.initial),
    Scenario(
        "initial-sync-lazy", "initial sync of {rooms} rooms, lazy, timeline 20", "sync", syncing.initial_lazy
    ),
    Scenario("idle-sync", "idle incremental sync, {rooms} rooms", "sync", syncing.idle),
    Scenario("send-and-sync", "send + incremental sync", "pair", syncing.send_and_sync),
    Scenario("messages", "messages, 100 of a room", "request", rooms.messages),
    Scenario("room-state", "room state, 20 members", "request", rooms.state),
    Scenario("create-room", "createRoom", "room", rooms.create),
    Scenario("join", "join a public room", "join", rooms.join),
    Scenario("keys-query", "keys of {key_users} users", "query", encryption.query),
    Scenario("keys-claim", "one-time keys of 100 devices", "claim", encryption.claim),
    Scenario("to-device", "messages to 200 devices", "request", encryption.to_device),
    Scenario("register", "register (2 requests, cheapest hash)", "user", accounts.register),
)

BY_KEY = {scenario.key: scenario for scenario in SCENARIOS}
