# SPDX-License-Identifier: Apache-2.0
"""Events that are to be sent later (MSC4140): `events` schedules and manages them, `dispatch` sends one, `timer` knows
when."""
