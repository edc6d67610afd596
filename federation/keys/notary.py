# SPDX-License-Identifier: Apache-2.0
"""What this server tells of other servers' keys (server-server API, "Querying Keys Through Another Server").

Owns which answers are passed on, with our signature added: those the servers gave us themselves, never another
notary's, and the newest there is where the server is away. How often a server is asked anew is the keyring's; how many
are asked for one query is bounded here.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from federation.keys.keyring import Keyring
from federation.keys.own import OwnKeys
from homeserver.web.bodies import parse_signed
from storage.server_keys import KeyAnswer, ServerKeyStore

#: Servers of one query, and those of them that are asked for it.
MOST_SERVERS: Final = 200
MOST_ASKED: Final = 20

Criteria = Mapping[str, int]
"""Key id → until when (ms since 1970) it shall be valid; "" stands for any key."""


class Notary:
    """Answers queries. `now` gives milliseconds since 1970."""

    def __init__(
        self, *, own: OwnKeys, keyring: Keyring, store: ServerKeyStore, now: Callable[[], int]
    ) -> None:
        self._own = own
        self._keyring = keyring
        self._store = store
        self._now = now

    async def query(self, wanted: Mapping[str, Criteria]) -> list[Mapping[str, Any]]:
        """What is known of these servers, valid names up to MOST_SERVERS, each answer signed by it and by us."""
        others = [name for name in wanted if name != self._own.server_name]
        known = await self._store.answers(others) if others else {}
        stale = [name for name in others if self._is_stale(known.get(name), wanted[name])][:MOST_ASKED]
        if stale:
            await self._keyring.refresh(stale)
            known.update(await self._store.answers(stale))
        answers: list[Mapping[str, Any]] = [
            self._own.sign(parse_signed(each.answer.encode())) for each in known.values()
        ]
        if len(others) < len(wanted):
            answers.append(dict(self._own.published()))
        return answers

    def _is_stale(self, answer: KeyAnswer | None, criteria: Criteria) -> bool:
        """Whether the server should be asked: also when half the answer's life is over, and for keys it lacks."""
        if answer is None:
            return True
        now = self._now()
        if now >= (answer.fetched_ts + answer.valid_until_ts) // 2:
            return True
        if any(until > answer.valid_until_ts for until in criteria.values()):
            return True
        value = parse_signed(answer.answer.encode())
        return any(
            key_id and key_id not in value["verify_keys"] and key_id not in value.get("old_verify_keys", {})
            for key_id in criteria
        )
