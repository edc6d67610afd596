# SPDX-License-Identifier: Apache-2.0
"""Lares, a federated Matrix homeserver: the protocol, the services and the HTTP faces.

The database lives in the sibling package `storage`, everything between domains in `federation`.
"""

__version__ = "0.1.0"
