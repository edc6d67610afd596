# SPDX-License-Identifier: Apache-2.0
"""Devices between servers: asking for keys, following the lists of other servers' users, telling of our own.

Fulfils what `homeserver/devices/remote.py` asks for. Units that come in are `federation/edus`', what others ask of
us is `federation/serving/devices.py`'s.
"""
