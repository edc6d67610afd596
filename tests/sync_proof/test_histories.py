# SPDX-License-Identifier: Apache-2.0
"""The proof of sync over random histories, and over those that once failed."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, given, settings

from tests.sync_proof.program import History, histories
from tests.sync_proof.running import Runner

THOROUGH = settings.get_current_profile_name() == "thorough"
EXAMPLES = settings().max_examples if THOROUGH else 80
LONGEST = 60 if THOROUGH else 36
"""Rounds of a history: some writes, then a read."""


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not THOROUGH,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
@given(histories(LONGEST))
def _random_histories(runner: Runner, history: History) -> None:
    runner.run(history)


CORNERS = {
    "responses": 500,
    "frames": 50,
    "join": 500,
    "invite": 20,
    "knock": 5,
    "leave": 20,
    "limited": 200,
    "filled": 100,
    "repeated": 5,
    "went back": 20,
    "awaited": 5,
    "Own done": 100,
    "Other done": 40,
    "Redact done": 20,
    "Rename done": 5,
    "Receipt done": 20,
    "Typing done": 5,
    "Ignore done": 5,
    "Tag done": 5,
    "SetVisibility done": 10,
}
"""How often, in all histories together, what is to be proved must have come up at least."""


def test_random_histories(runner: Runner) -> None:
    """Every promise holds in every history, and the histories between them turn every corner."""
    before = Counter(runner.corners)
    _random_histories(runner)
    turned = runner.corners - before
    short = {corner: turned[corner] for corner, count in CORNERS.items() if turned[corner] < count}
    assert not short, f"too seldom: {short} of {dict(turned)}"
