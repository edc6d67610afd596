# SPDX-License-Identifier: Apache-2.0
"""Every conversation between our server and a real Synapse, begun on either side, and between two of ours."""

from __future__ import annotations

import pytest

from tests.interop.federation.conftest import Federation
from tests.interop.federation.scenarios import CONVERSATIONS

PAIRS = (("lares", "synapse"), ("synapse", "lares"), ("lares", "other lares"))


@pytest.mark.parametrize(("near", "far"), PAIRS, ids=[" and ".join(pair) for pair in PAIRS])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversation(federation: Federation, name: str, near: str, far: str) -> None:
    """What both are told is what happened."""
    CONVERSATIONS[name](federation.person(near, "near"), federation.person(far, "far"))
