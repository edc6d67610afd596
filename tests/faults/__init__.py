# SPDX-License-Identifier: Apache-2.0
"""Faults: processes killed under load, several servers on one database, hostile input."""
