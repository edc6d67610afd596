# SPDX-License-Identifier: Apache-2.0
"""The benchmark: measures a homeserver through its public client-server API, alone or beside Synapse.

It owns the servers it starts (with a Postgres cluster for each), the load it sends and the report. It imports
nothing of the homeserver, so what it measures is what any client would meet.
"""
