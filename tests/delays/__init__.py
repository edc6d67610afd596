# SPDX-License-Identifier: Apache-2.0
"""A machine that is slow at random: what tests and servers read arrives late, and now and then nothing runs at all.

    scripts/test --delays 0.5 tests/federation

has the given share of all that is read from the database and from the network come some milliseconds later, a few of
them half a second. Two answers then come in either order, and what was asked for first may be told last: tests that
look too early fail, and so does the server where it takes an old answer for the newest. What is sent is in its order
as ever. Nothing depends on a seed; what fails once is run again until it is understood.
"""
