# SPDX-License-Identifier: Apache-2.0
"""History from other servers: what happened in a room before this server came to it, or while it could not be reached.

`candidates` says whom to ask, `placing` how events get their place and what that takes, `backfilling` what is asked for
one gap, `remote_history` when, how often and for how long. What is news is `federation.inbound`'s.
"""
