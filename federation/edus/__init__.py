# SPDX-License-Identifier: Apache-2.0
"""Ephemeral units of other servers, one module per type: what of them is believed, and which service takes it.

Every handler is given the origin, which is authenticated, and a content that nobody has looked at. What concerns a user
counts only if the user is the origin's; what is malformed is dropped, since there is nobody to tell.
"""
