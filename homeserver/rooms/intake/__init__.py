# SPDX-License-Identifier: Apache-2.0
"""What a room makes of an event from outside, whichever door it came by.

Owns authorization by auth events, by the state before and by the present state, and the writing. Reading PDUs off the
wire, their signatures and what is missing before them are `federation.inbound`'s.
"""
