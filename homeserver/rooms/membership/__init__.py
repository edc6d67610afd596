# SPDX-License-Identifier: Apache-2.0
"""Membership: one module per verb, each a plan that says precisely why it refuses.

`join invite leave kick ban unban knock forget` are the verbs of the client-server API ("Room membership"); `changes`
finds the verb for a member event sent as state; `departure` leaves every room; `propagation` carries a profile into
member events. The rules of the room version are the engine's to enforce; the checks here come first for the sake of
the message, and add what the rules don't know (guests, suspension, blocked invites, restricted joins' conditions).
"""
