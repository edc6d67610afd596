# SPDX-License-Identifier: Apache-2.0
"""Keys of many users as somebody may see them, in one query.

Reads the tables of `device_keys`, `device_lists` and `cross_signing`, and writes none. A key is shown with the
signatures that were made on it after its upload. The one that most devices have, by the user's self-signing key, is put
into the text by the database; where it is not as simple as that, the caller takes the JSON apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from storage.database import Database, JsonRows, Prepared


class LaterSignature(NamedTuple):
    """A signature that is to be added to a key."""

    signer_id: str
    signer_key_id: str
    signature: str


class UnfinishedKey(NamedTuple):
    """A key to which signatures are to be added."""

    kind: str
    """`device`, or the usage of a cross-signing key."""
    device_id: str
    """Or the public key."""
    display_name: str | None
    key: str
    """JSON object."""
    signatures: Sequence[LaterSignature]


class ShownKeys(NamedTuple):
    """What is shown of a user. The texts are JSON."""

    user_id: str
    devices: str | None
    """Members of an object, device id → keys with `unsigned`; None: there are none."""
    master: str | None
    self_signing: str | None
    user_signing: str | None
    """Its owner's only."""
    unfinished: Sequence[UnfinishedKey]
    """Those that are not among the above."""


# A device's keys are signed by it. Where they hold `"signatures"` once it is therefore their own member, and what opens
# the owner's signatures is in its place, whatever else the client put in.
_SHOWN = Prepared("""
WITH asked AS MATERIALIZED (
    SELECT user_id, device_ids FROM json_to_recordset(%(asked)s) AS x(user_id text, device_ids text[])
), keys AS (
    SELECT k.user_id, 'device' AS kind, k.device_id AS key_id, d.display_name, k.keys AS key
    FROM asked a JOIN device_keys k USING (user_id) JOIN devices d USING (user_id, device_id)
    WHERE a.device_ids IS NULL OR k.device_id = ANY (a.device_ids)
    UNION ALL
    SELECT r.user_id, 'device', r.device_id, r.display_name, r.keys
    FROM asked a JOIN remote_devices r USING (user_id)
    WHERE r.keys IS NOT NULL AND (a.device_ids IS NULL OR r.device_id = ANY (a.device_ids))
    UNION ALL
    SELECT c.user_id, c.usage, c.public_key, NULL, c.key
    FROM asked a JOIN cross_signing_keys c USING (user_id)
    WHERE c.usage <> 'user_signing' OR c.user_id = %(viewer)s
), later AS (
    SELECT s.user_id, s.key_id, count(*) AS number,
        '"signatures":{' || to_json(min(s.signer_id))::text || ':{' AS opening,
        to_json(min(s.signer_key_id))::text || ':' AS name, to_json(min(s.signature))::text AS signature,
        json_agg(json_build_array(s.signer_id, s.signer_key_id, s.signature)) AS signatures
    FROM asked a JOIN key_signatures s USING (user_id)
    WHERE s.signer_id = s.user_id OR s.signer_id = %(viewer)s
    GROUP BY s.user_id, s.key_id
), shown AS (
    SELECT user_id, k.kind, key_id, k.display_name, k.key, l.signatures, CASE
        WHEN l.number IS NULL THEN k.key
        WHEN k.kind = 'device' AND l.number = 1 AND strpos(k.key, l.opening) > 0 AND strpos(k.key, l.opening || '}') = 0
            AND strpos(k.key, l.name) = 0
            AND length(replace(k.key, '"signatures"', '')) = length(k.key) - length('"signatures"')
        THEN replace(k.key, l.opening, l.opening || l.name || l.signature || ',')
        END AS text
    FROM keys k LEFT JOIN later l USING (user_id, key_id)
)
SELECT user_id,
    string_agg(to_json(key_id)::text || ':' || left(text, -1) || ',"unsigned":' || CASE
        WHEN display_name IS NULL THEN '{}}'
        ELSE '{"device_display_name":' || to_json(display_name)::text || '}}' END, ',') FILTER (WHERE kind = 'device'),
    max(text) FILTER (WHERE kind = 'master'),
    max(text) FILTER (WHERE kind = 'self_signing'),
    max(text) FILTER (WHERE kind = 'user_signing'),
    json_agg(json_build_array(kind, key_id, display_name, key, signatures)) FILTER (WHERE text IS NULL)
FROM shown GROUP BY user_id
""")


class ShownKeyStore:
    """Reads what is shown."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, wanted: Mapping[str, Sequence[str]], viewer: str | None) -> list[ShownKeys]:
        """Of users of ours and others whose lists are kept; of those without device ids, all devices.

        `viewer` also sees the signatures by themself; None: another server. Users without any keys are left out.
        """
        asked = [{"user_id": user_id, "device_ids": list(ids) or None} for user_id, ids in wanted.items()]
        rows = await self._database.fetch("shown_keys", _SHOWN, {"asked": JsonRows(asked), "viewer": viewer})
        return [ShownKeys._make((*row[:5], _unfinished(row[5]))) for row in rows]


def _unfinished(rows: Sequence[Sequence[Any]] | None) -> Sequence[UnfinishedKey]:
    return [
        UnfinishedKey._make((*row[:4], [LaterSignature._make(signature) for signature in row[4]]))
        for row in rows or ()
    ]
