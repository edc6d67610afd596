# SPDX-License-Identifier: Apache-2.0
"""Asking a logged-in user for the password again, for services that stand below accounts and know nothing of stages."""

from homeserver.accounts.stages import PASSWORD
from homeserver.accounts.uia import Auth, Operation, Uia


class Reauthentication:
    """See `homeserver.devices.cross_signing.Reauthentication`."""

    def __init__(self, uia: Uia) -> None:
        self._uia = uia

    async def require(self, user_id: str, operation: str, auth: Auth) -> None:
        """Return if `auth` completes authentication for the operation. Raises UiaRequired."""
        await self._uia.require(
            Operation(name=operation, user_id=user_id, flows=[(PASSWORD,)], params={}), auth
        )
