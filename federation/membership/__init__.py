# SPDX-License-Identifier: Apache-2.0
"""Membership between servers: joins, knocks, invites and leaves, as asked of others and as others ask them.

Ours to ask: `templates` rebuilds what another server drafted, `joining`, `knocking`, `leaving` and `inviting` are the
handshakes, `asking` tries one server after the other, `remote` is all of it as the room services see it, `filling`
completes rooms that were entered by a short answer.
"""
