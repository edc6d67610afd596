# SPDX-License-Identifier: Apache-2.0
"""What accounts need of a rate limiter where only the service knows what happened: guesses of passwords.

Limits that depend on the request alone (by address) are the endpoints'.
"""

from homeserver.needs import Protocol


class GuessLimits(Protocol):
    """Counts attempts and failures per account; every method is quick."""

    def check(self, user_id: str) -> None:
        """Count an attempt to log in as `user_id`.

        Raises LimitExceeded if there were too many attempts, or too many failures, of late.
        """

    def failed(self, user_id: str) -> None:
        """The attempt was a wrong guess."""
