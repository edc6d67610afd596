# SPDX-License-Identifier: Apache-2.0
"""Signing keys of other servers. Owns the tables, and which word counts where two contradict each other.

What a server says of itself counts: it retires keys of its own that it names no more, and what a notary said of the
same key id is forgotten. What a notary says never touches a key known from the server but to prolong one that the
server has not retired, and never puts another key under an id that is known. So a notary that lies can name keys of
servers nobody here ever met, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import NamedTuple

from storage.database import Database
from storage.database.transaction import Transaction

#: Keys kept of one server.
MOST_KEYS = 64


class ServerKey(NamedTuple):
    """A key of a server, good for what it signed until `valid_until_ts` (ms since 1970)."""

    server_name: str
    key_id: str
    public_key: bytes
    valid_until_ts: int
    retired: bool


class KeyAnswer(NamedTuple):
    """What a server published of its keys, as it was signed: JSON text."""

    server_name: str
    answer: str
    valid_until_ts: int
    fetched_ts: int


_ROWS = """json_to_recordset(%(keys)s) AS x(
    server_name text, key_id text, public_key text, valid_until_ts bigint, retired boolean)"""
_GET = """
SELECT server_name, key_id, public_key, valid_until_ts, retired FROM server_keys WHERE server_name = ANY (%s)
"""
_RETIRE = f"""
UPDATE server_keys SET retired = true, valid_until_ts = least(valid_until_ts, %(now)s)
WHERE server_name = %(server_name)s AND direct AND NOT retired AND (key_id, public_key) NOT IN (
    SELECT key_id, decode(public_key, 'hex') FROM {_ROWS})
"""  # noqa: S608
_OVERRULE = f"""
DELETE FROM server_keys k USING {_ROWS}
WHERE k.server_name = x.server_name AND k.key_id = x.key_id AND NOT k.direct
  AND k.public_key <> decode(x.public_key, 'hex')
"""  # noqa: S608
_KEEP_DIRECT = f"""
INSERT INTO server_keys (server_name, key_id, public_key, valid_until_ts, retired, direct, learned_ts)
SELECT server_name, key_id, decode(public_key, 'hex'), valid_until_ts, retired, true, %(now)s FROM {_ROWS}
ON CONFLICT (server_name, key_id, public_key) DO UPDATE
SET valid_until_ts = excluded.valid_until_ts, retired = excluded.retired, direct = true,
    learned_ts = excluded.learned_ts
"""  # noqa: S608
_FORGET = """
DELETE FROM server_keys WHERE server_name = %(server_name)s AND (key_id, public_key) IN (
    SELECT key_id, public_key FROM server_keys WHERE server_name = %(server_name)s
    ORDER BY learned_ts DESC, retired, key_id OFFSET %(most)s)
"""
_KEEP_ANSWER = """
INSERT INTO server_key_answers (server_name, answer, valid_until_ts, fetched_ts) VALUES (%s, %s, %s, %s)
ON CONFLICT (server_name) DO UPDATE
SET answer = excluded.answer, valid_until_ts = excluded.valid_until_ts, fetched_ts = excluded.fetched_ts
WHERE server_key_answers.fetched_ts <= excluded.fetched_ts
"""
_KEEP_NOTARISED = f"""
INSERT INTO server_keys AS k (server_name, key_id, public_key, valid_until_ts, retired, direct, learned_ts)
SELECT DISTINCT ON (server_name, key_id)
    server_name, key_id, decode(public_key, 'hex'), valid_until_ts, retired, false, %(now)s
FROM {_ROWS}
WHERE NOT EXISTS (
    SELECT 1 FROM server_keys o WHERE o.server_name = x.server_name AND o.key_id = x.key_id
    AND o.public_key <> decode(x.public_key, 'hex'))
  AND (SELECT count(*) FROM server_keys o WHERE o.server_name = x.server_name) < %(most)s
ORDER BY server_name, key_id, valid_until_ts DESC
ON CONFLICT (server_name, key_id, public_key) DO UPDATE
SET valid_until_ts = greatest(k.valid_until_ts, excluded.valid_until_ts), learned_ts = excluded.learned_ts
WHERE NOT k.retired
"""  # noqa: S608
_ANSWERS = "SELECT server_name, answer, valid_until_ts, fetched_ts FROM server_key_answers WHERE server_name = ANY (%s)"


class ServerKeyStore:
    """Reads and keeps other servers' keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, server_names: Collection[str]) -> list[ServerKey]:
        """Every key known of these servers."""
        rows = await self._database.fetch("server_keys_get", _GET, (list(server_names),))
        return [ServerKey(row[0], row[1], bytes(row[2]), row[3], row[4]) for row in rows]

    async def keep_direct(
        self, server_name: str, keys: Sequence[ServerKey], answer: KeyAnswer | None, now: int
    ) -> None:
        """Keep what a server says of itself: all its keys, and the answer itself unless it is too large to keep."""

        async def work(txn: Transaction) -> None:
            params = {"server_name": server_name, "keys": _encoded(keys), "now": now, "most": MOST_KEYS}
            await txn.execute("server_keys_retire", _RETIRE, params)
            await txn.execute("server_keys_overrule", _OVERRULE, params)
            await txn.execute("server_keys_keep", _KEEP_DIRECT, params)
            await txn.execute("server_keys_forget", _FORGET, params)
            if answer is not None:
                await txn.execute("server_keys_answer", _KEEP_ANSWER, tuple(answer))

        await self._database.transaction("server_keys_keep_direct", work)

    async def keep_notarised(self, keys: Sequence[ServerKey], now: int) -> None:
        """Keep what a notary says of other servers, as far as it contradicts nothing."""
        params = {"keys": _encoded(keys), "now": now, "most": MOST_KEYS}
        await self._database.execute("server_keys_keep_notarised", _KEEP_NOTARISED, params)

    async def answers(self, server_names: Collection[str]) -> dict[str, KeyAnswer]:
        """What these servers published last, as far as it was kept."""
        rows = await self._database.fetch("server_keys_answers", _ANSWERS, (list(server_names),))
        return {row[0]: KeyAnswer(*row) for row in rows}


def _encoded(keys: Sequence[ServerKey]) -> str:
    return json.dumps([{**key._asdict(), "public_key": key.public_key.hex()} for key in keys])
