# SPDX-License-Identifier: Apache-2.0
"""Registration by whoever knows the server's registration secret, as the ecosystem's tools and harnesses do it.

Owns the proof: an HMAC-SHA1, keyed by the secret, over a nonce of ours and the account's fields, joined by NUL
(`nonce username password admin|notadmin [user_type]`). A nonce serves one attempt within its minute, so a request
overheard is worth nothing.
"""

import hashlib
import hmac
from typing import Final

from msgspec import Struct

from homeserver.accounts.account_maker import AccountMaker
from homeserver.accounts.credentials import Clock, new_secret
from homeserver.accounts.passwords import PasswordHasher
from homeserver.accounts.sessions import DeviceRequest, LoggedIn
from homeserver.accounts.usernames import Usernames
from homeserver.errors import Forbidden, Unknown
from storage.registration_nonces import RegistrationNonceStore
from storage.users import NewUser

_NONCE_LIFETIME_MS: Final = 60_000


class SharedSecretRequest(Struct, frozen=True, kw_only=True):
    """An account to make, and the proof that its maker knows the secret."""

    nonce: str
    username: str
    password: str
    admin: bool
    user_type: str | None
    mac: str
    display_name: str | None
    device: DeviceRequest | None
    """None: do not log in."""

    def __repr__(self) -> str:
        return f"SharedSecretRequest({self.username!r})"


class SharedSecretRegistration:
    """Registers users for holders of the secret."""

    def __init__(
        self,
        *,
        secret: str,
        usernames: Usernames,
        nonces: RegistrationNonceStore,
        maker: AccountMaker,
        hasher: PasswordHasher,
        clock: Clock,
    ) -> None:
        if not secret:
            raise ValueError("an empty registration secret would let anybody in")
        self._secret = secret.encode()
        self._usernames = usernames
        self._nonces = nonces
        self._maker = maker
        self._hasher = hasher
        self._clock = clock

    async def nonce(self) -> str:
        """A nonce for one registration within a minute."""
        nonce = new_secret()
        await self._nonces.add(nonce, self._clock() + _NONCE_LIFETIME_MS)
        return nonce

    async def register(self, request: SharedSecretRequest) -> LoggedIn:
        """Make the account. Passwords are the secret's holder's own judgement.

        Raises Unknown for a nonce that was not given out, is too old or was used, Forbidden for a wrong proof,
        InvalidUsername, UserInUse, InvalidParam.
        """
        if not await self._nonces.take(request.nonce, self._clock()):
            raise Unknown("unrecognised nonce")
        if not hmac.compare_digest(self._mac(request), request.mac.lower().encode("utf-8", "replace")):
            raise Forbidden("HMAC incorrect")
        if request.device is not None:
            request.device.check()
        user = NewUser(
            user_id=self._usernames.user_id(request.username),
            password_hash=await self._hasher.hash(request.password),
            admin=request.admin,
            user_type=request.user_type,
        )
        return await self._maker.make(user, device=request.device, display_name=request.display_name)

    def _mac(self, request: SharedSecretRequest) -> bytes:
        fields = [
            request.nonce,
            request.username,
            request.password,
            "admin" if request.admin else "notadmin",
        ]
        if request.user_type is not None:
            fields.append(request.user_type)
        # SHA-1 is what every tool speaks here; HMAC does not lean on its resistance to collisions.
        return hmac.new(self._secret, "\0".join(fields).encode(), hashlib.sha1).hexdigest().encode()
