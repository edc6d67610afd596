# SPDX-License-Identifier: Apache-2.0
"""The fixtures of the servers that are examined."""

from __future__ import annotations

from tests.outgoing.conftest import authority, serve

__all__ = ["authority", "serve"]
