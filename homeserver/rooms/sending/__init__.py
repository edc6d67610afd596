# SPDX-License-Identifier: Apache-2.0
"""Sending into rooms: `messages`, `state` and `redactions`, each for users of this server.

A room that is not known is refused in the words for one the sender is not in, so that nobody learns which rooms exist.
"""
