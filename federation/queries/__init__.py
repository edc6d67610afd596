# SPDX-License-Identifier: Apache-2.0
"""What this server's users want to know of other servers: profiles, published rooms, summaries of rooms and spaces.

Answers are checked down to the last field that is shown, and kept for a short while.
"""
