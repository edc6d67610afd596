# SPDX-License-Identifier: Apache-2.0
"""What federation costs: `scripts/benchmark federation`.

Owns its servers' being able to reach each other, a sender that is no homeserver, and four scenarios: taking events in,
how long a message takes from one server to another, resolving forks of a large room, and joining one. Measuring is
`scripts.benchmarks`'.
"""
