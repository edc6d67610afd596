# SPDX-License-Identifier: Apache-2.0
"""Rooms: what may be done in them and to them, and who may read what of them.

`engine` writes them, `access` is the gate through which they are read, the other modules are one verb or noun each.
"""
