# SPDX-License-Identifier: Apache-2.0
"""What is sent to other servers: events, and ephemeral units.

`feed` takes new events from the stream and `routing` says which servers each concerns; `sender` has a `lane` per
server with something to send and decides whose turn it is; `delivery` brings one load across; `leases` shares the
servers among processes; `outbox` takes ephemeral units. An event's row is its own entry in every queue: what a server
that was away has missed is read back from the rows (`storage.outbound`), so that it costs nothing while it is away.
"""

from federation.outbound.outbox import Outbox, OutgoingEdu

__all__ = ["Outbox", "OutgoingEdu"]
