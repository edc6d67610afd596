# SPDX-License-Identifier: Apache-2.0
"""How far one installation goes: the limits that bind, measured (`limits`), and a model of load on them (`model`).

`workers` compares one worker with two. docs/scaling.md is where the results are read.
"""
