# SPDX-License-Identifier: Apache-2.0
"""Cross-signing keys, and signatures that were made on keys after their upload.

Owns both tables but for signatures of users on other users' keys, which are written through the stream
(`write_user_signatures`, migration 0013).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from storage.database import Database, JsonRows, Prepared, Transaction


class StoredCrossSigningKey(NamedTuple):
    """One row of `cross_signing_keys`."""

    user_id: str
    usage: str
    public_key: str
    key: str
    """JSON with its owner's signatures."""


class KeySignature(NamedTuple):
    """A signature made by `signer_id` on a device's keys or a master key of `user_id`."""

    user_id: str
    key_id: str
    """A device id, or a master key's public key."""
    signer_id: str
    signer_key_id: str
    signature: str


_KEYS = Prepared(
    "SELECT user_id, usage, public_key, key FROM cross_signing_keys WHERE user_id = ANY (%s::text[])"
)
_SIGNATURES = Prepared("""
SELECT user_id, key_id, signer_id, signer_key_id, signature FROM key_signatures
WHERE user_id = ANY (%s::text[]) AND (signer_id = user_id OR signer_id = %s)
""")
_LOCK_USER = "SELECT 1 FROM users WHERE user_id = %s FOR NO KEY UPDATE"
_PUT = """
INSERT INTO cross_signing_keys (user_id, usage, public_key, key)
SELECT %(user_id)s, x.usage, x.public_key, x.key
FROM json_to_recordset(%(rows)s) AS x(usage text, public_key text, key text)
ON CONFLICT (user_id, usage) DO UPDATE SET public_key = excluded.public_key, key = excluded.key
"""
_REMOVE_OTHERS = "DELETE FROM cross_signing_keys WHERE user_id = %s AND usage <> ALL (%s)"
_REMOVE_SIGNATURES = "DELETE FROM key_signatures WHERE user_id = %s AND key_id = ANY (%s)"
_SIGN = """
INSERT INTO key_signatures AS s (user_id, key_id, signer_id, signer_key_id, signature)
SELECT user_id, key_id, signer_id, signer_key_id, signature FROM json_to_recordset(%s) AS x(
    user_id text, key_id text, signer_id text, signer_key_id text, signature text)
ON CONFLICT (user_id, key_id, signer_id, signer_key_id) DO UPDATE SET signature = excluded.signature
WHERE s.signature <> excluded.signature
"""
_FORGET = """
WITH signed AS (DELETE FROM key_signatures WHERE user_id = %(user_id)s),
    others AS (DELETE FROM user_signatures WHERE user_id = %(user_id)s RETURNING target_id),
    signed_others AS (DELETE FROM key_signatures k USING others o
        WHERE k.user_id = o.target_id AND k.user_id <> %(user_id)s AND k.signer_id = %(user_id)s)
DELETE FROM cross_signing_keys WHERE user_id = %(user_id)s
"""
_DUE = "INSERT INTO device_list_dues (user_id, device_id) SELECT %s, unnest(%s::text[])"


class CrossSigningStore:
    """Reads and writes cross-signing keys and signatures."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keys(self, user_ids: Sequence[str]) -> list[StoredCrossSigningKey]:
        """The keys of many users, in one query."""
        rows = await self._database.fetch("cross_signing_keys", _KEYS, (list(user_ids),))
        return [StoredCrossSigningKey._make(row) for row in rows]

    async def keys_txn(self, txn: Transaction, user_id: str) -> list[StoredCrossSigningKey]:
        """The keys of a user, within a transaction."""
        rows = await txn.fetch("cross_signing_keys", _KEYS, ([user_id],))
        return [StoredCrossSigningKey._make(row) for row in rows]

    async def signatures(self, user_ids: Sequence[str], viewer: str | None) -> list[KeySignature]:
        """Later signatures on the keys of many users: those by their owners, and those that `viewer` made."""
        rows = await self._database.fetch("key_signatures", _SIGNATURES, (list(user_ids), viewer))
        return [KeySignature._make(row) for row in rows]

    async def lock_user_txn(self, txn: Transaction, user_id: str) -> None:
        """Keep other changes of one of our users' keys waiting."""
        await txn.fetch_one("cross_signing_lock", _LOCK_USER, (user_id,))

    async def put_txn(self, txn: Transaction, user_id: str, keys: Sequence[StoredCrossSigningKey]) -> None:
        """Set keys; others of the user stay."""
        params = {"user_id": user_id, "rows": JsonRows([key._asdict() for key in keys])}
        await txn.execute("cross_signing_put", _PUT, params)

    async def remove_others_txn(self, txn: Transaction, user_id: str, usages: Sequence[str]) -> None:
        """Remove a user's keys of other usages than those."""
        await txn.execute("cross_signing_remove", _REMOVE_OTHERS, (user_id, list(usages)))

    async def remove_signatures_txn(self, txn: Transaction, user_id: str, key_ids: Sequence[str]) -> None:
        """Forget the signatures on keys of a user that are no more."""
        await txn.execute("key_signatures_remove", _REMOVE_SIGNATURES, (user_id, list(key_ids)))

    async def sign_txn(self, txn: Transaction, signatures: Sequence[KeySignature]) -> int:
        """Add signatures; how many were new."""
        rows = JsonRows([signature._asdict() for signature in signatures])
        return await txn.execute("key_signatures_add", _SIGN, (rows,))

    async def forget_txn(self, txn: Transaction, user_id: str) -> bool:
        """Remove a user's keys and every signature by or on them; False if there were no keys."""
        return await txn.execute("cross_signing_forget", _FORGET, {"user_id": user_id}) > 0

    async def due_txn(self, txn: Transaction, user_id: str, device_ids: Sequence[str]) -> None:
        """Have it told that those devices of a user changed; an empty id stands for the cross-signing keys."""
        await txn.execute("device_list_due", _DUE, (user_id, list(device_ids)))
