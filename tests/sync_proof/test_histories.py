# SPDX-License-Identifier: Apache-2.0
"""The proof of sync over random histories, and over those that once failed."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings

from tests.sync_proof.program import History, histories
from tests.sync_proof.running import Runner

THOROUGH = settings.get_current_profile_name() == "thorough"
EXAMPLES = settings().max_examples if THOROUGH else 60
LONGEST = 80 if THOROUGH else 50


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not THOROUGH,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(histories(LONGEST))
def _random_histories(runner: Runner, history: History) -> None:
    runner.run(history)


def test_random_histories(runner: Runner) -> None:
    """Every promise holds in every history, and the histories between them turn every corner."""
    _random_histories(runner)
    assert runner.corners["responses"] > 100
