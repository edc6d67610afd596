# SPDX-License-Identifier: Apache-2.0
"""The big room: what operations cost in a room of ten thousand members beside one of a hundred.

`places` makes the rooms and their people, `operations` is what is done in each, `command` measures and reports.
"""
