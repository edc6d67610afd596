# SPDX-License-Identifier: Apache-2.0
"""Matrix as pure functions and frozen values, true for every server and not only for this one.

Owns what the specification defines without a server running: identifiers, canonical JSON, events and their rules
per room version. No I/O, no clock, no Twisted, no SQL, no configuration.
"""
