# SPDX-License-Identifier: Apache-2.0
"""Whether people may register themselves, and what they must show.

Owns the meaning of the `registration` settings and of registration tokens, the one for the first account included: it
works even while registration is closed, makes a server administrator, and ends when anybody has an account, however
that was made: it was printed, and may stand in a log for years.
"""

from collections.abc import Mapping
from typing import Any, Final

from homeserver.accounts import stages
from homeserver.accounts.credentials import Clock, new_registration_token
from homeserver.accounts.uia import Authorised, Flow, Operation
from homeserver.config.sections import Registration as RegistrationSettings
from homeserver.errors import Forbidden
from storage.database import Transaction
from storage.registration_tokens import RegistrationTokenStore

_CLOSED: Final = "Registration is not enabled on this homeserver"


class RegistrationGate:
    """Lets people in as far as the settings allow."""

    def __init__(self, settings: RegistrationSettings, tokens: RegistrationTokenStore, clock: Clock) -> None:
        self._settings = settings
        self._tokens = tokens
        self._clock = clock

    async def check_open(self) -> None:
        """Raise Forbidden if nobody can register."""
        if not self._settings.enabled and await self._tokens.first_account_token(self._clock()) is None:
            raise Forbidden(_CLOSED)

    def check_guests_allowed(self) -> None:
        """Raise Forbidden unless guests may have accounts."""
        if not self._settings.allow_guests:
            raise Forbidden("Guest access is not enabled on this homeserver")

    async def is_token_valid(self, token: str) -> bool:
        """Whether a registration token could be used now. Raises Forbidden while registration is closed."""
        await self.check_open()
        if len(token) > stages.MAX_REGISTRATION_TOKEN:
            return False
        return await self._tokens.is_valid(token, self._clock(), closed=not self._settings.enabled)

    def operation(self) -> Operation:
        """The authentication registering takes: a token where required, the terms where there are any."""
        flow: Flow = ()
        params: dict[str, Mapping[str, Any]] = {}
        if self._settings.requires_token or not self._settings.enabled:
            flow += (stages.REGISTRATION_TOKEN,)
        if self._settings.terms:
            flow += (stages.TERMS,)
            params[stages.TERMS] = {"policies": self.policies()}
        return Operation(name="POST register", user_id=None, flows=[flow or (stages.DUMMY,)], params=params)

    def policies(self) -> dict[str, dict[str, Any]]:
        """What `m.login.terms` presents: by policy, its `version`, and `name` and `url` by language."""
        return {
            name: {
                "version": policy.version,
                **{
                    language: {"name": document.name, "url": document.url}
                    for language, document in policy.languages.items()
                },
            }
            for name, policy in self._settings.terms.items()
        }

    def terms_accepted(self) -> dict[str, str] | None:
        """Policy → version, as accepted by whoever went through the operation now; None where there are none."""
        return {name: policy.version for name, policy in self._settings.terms.items()} or None

    async def complete_txn(self, txn: Transaction, authorised: Authorised) -> bool:
        """Count the token that was used, if any; whether the new user is an administrator."""
        token = authorised.registration_token
        return token is not None and await self._tokens.complete_txn(txn, token)

    async def ensure_first_account_token(self) -> str | None:
        """The token for the first account, made if need be.

        None if somebody has an account, or registration is open to everybody. Until it is used, every call returns
        the same one.
        """
        if self._settings.enabled and not self._settings.requires_token:
            return None
        return await self._tokens.ensure_first_account_token(new_registration_token(), self._clock())
