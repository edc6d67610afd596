# SPDX-License-Identifier: Apache-2.0
"""Conversations between homeservers, held by people who know the client-server API only."""

import pytest

pytest.register_assert_rewrite("tests.interop.federation.scenarios")
