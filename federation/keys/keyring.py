# SPDX-License-Identifier: Apache-2.0
"""The keys of other servers: looked up, fetched, kept, and used.

Owns the way to a key (memory, database, the server itself, notaries), how often it is gone, and that it is gone once
per server however many wait. Which word counts where two contradict each other is the store's; what an answer must be,
`published`'s.

A server is asked first, notaries only about those that did not answer; but for a crowd of unknown servers, as the state
of an old room brings, notaries are asked first, or the dead among them would hold everybody up. Whoever waits gets no
error for what other servers do: a key that cannot be had is a signature that cannot be checked.
"""

import logging
from collections.abc import Callable, Collection, Coroutine, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredSemaphore, FirstError, gatherResults

from federation.client.errors import RemoteFailure
from federation.client.wire import Wire
from federation.keys.errors import KeyExpired, KeyUnknown
from federation.keys.fetch_turns import Fetches, FetchTurns
from federation.keys.fetching import BATCH, fetch_direct, fetch_notarised, log_failure
from federation.keys.known import MOST_KNOWN, Attempts, KnownKeys, Need
from federation.keys.own import OwnKeys
from federation.keys.patience import FOR_SERVERS, DatabaseUse, for_each_notary, in_time
from federation.keys.published import LONGEST_MS, Published
from federation.keys.verification import Claim, Task, Verification
from homeserver.outgoing.errors import Overloaded
from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.errors import IdentifierError, SignatureError
from homeserver.protocol.events import Event
from homeserver.protocol.identifiers import is_valid_server_name
from homeserver.protocol.signing import (
    VerifyKey,
    check_json_signature,
    origin_key_ids,
    required_signing_domains,
    signing_key_ids,
)
from homeserver.web.clock import Clock
from storage.server_keys import KeyAnswer, ServerKeyStore

log = logging.getLogger(__name__)

#: Signatures of one server on one event that are looked at.
MOST_SIGNATURES: Final = 8
#: From so many unknown servers on, notaries are asked first.
CROWD: Final = 16
#: Servers asked at once for events' keys, and as many for requests', which must not wait for them; for one caller; and
#: those for whose turn somebody waits. Whoever names servers that answer slowly takes up no more than his share, see
#: `fetch_turns`.
_AT_ONCE: Final = 96
_BY_ONE_CALLER: Final = 32
_MOST_WAITING: Final = 20_000
#: Bytes of an answer that is kept for those who ask us as a notary. Honest ones have 500.
_LONGEST_KEY_ID: Final = 255
_MOST_KEPT: Final = 8 * 1024


class Keyring:
    """Everybody's keys. `now` gives milliseconds since 1970; `notaries` are server names, asked in this order."""

    def __init__(
        self,
        *,
        own: OwnKeys,
        store: ServerKeyStore,
        wire: Wire,
        notaries: Sequence[str] = (),
        now: Callable[[], int],
        most_known: int = MOST_KNOWN,
    ) -> None:
        """`most_known`: how many keys and servers are kept in memory."""
        self._own = own
        self._store = store
        self._wire = wire
        self._notaries = tuple(name for name in notaries if name != own.server_name)
        self._now = now
        self._known = KnownKeys(most_known)
        self._loads: dict[int, set[str]] = {}
        """Servers whose keys are being read, by the number of the load."""
        self._begun_loads = 0
        self._database_use = DatabaseUse()
        self._attempts = Attempts()
        self._fetches = Fetches(_MOST_WAITING)
        self._turns = FetchTurns(_AT_ONCE)
        self._request_turns = FetchTurns(_AT_ONCE)
        self._verification = Verification()

    @property
    def size(self) -> int:
        """Keys and servers in memory."""
        return self._known.size

    # Events

    async def verify_events(
        self, events: Sequence[Event], *, asker: str | None = None, clock: Clock | None = None
    ) -> list[SignatureError | None]:
        """For each event, why its signatures do not hold; None if those of all servers that must have signed do.

        KeyUnknown and KeyExpired tell what is wrong with the key rather than the signature. Keys must have been valid
        at `origin_server_ts` where the room version enforces that. Of a server's signatures those by unknown keys are
        passed over, as long as one is left.

        All calls of one `asker` fetch keys by the same turns; one without has turns of its own. With a `clock` others
        are asked for no longer than `patience` says, and the keys that have come must do.
        """
        read = [self._needs(event) for event in events]
        readable = [need for needs in read if not isinstance(needs, SignatureError) for need in needs]
        outcomes: list[SignatureError | None] = [None] * len(events)
        tasks: list[tuple[int, Task]] = []
        names = {need.server_name for need in readable}
        self._known.hold(names)
        try:
            await self._obtain(readable, self._turns, asker or object(), clock)
            for place, (event, needs) in enumerate(zip(events, read, strict=True)):
                task = needs if isinstance(needs, SignatureError) else self._task(event, needs)
                if isinstance(task, SignatureError):
                    outcomes[place] = task
                else:
                    tasks.append((place, task))
        finally:
            self._known.release(names)
        checked = await self._verification.check([task for _, task in tasks])
        for (place, _), outcome in zip(tasks, checked, strict=True):
            outcomes[place] = outcome
        return outcomes

    def _needs(self, event: Event) -> list[Need] | SignatureError:
        try:
            servers = required_signing_domains(event)
        except IdentifierError as error:
            return SignatureError(str(error))
        at = event.origin_server_ts if event.room_version.enforces_key_validity else None
        if at is not None and at > self._now() + LONGEST_MS:
            return KeyExpired("the event is dated further ahead than any key is valid")
        needs = []
        for server_name in servers:
            key_ids = origin_key_ids(event, server_name)
            if not key_ids:
                return SignatureError(f"no signature of {server_name}")
            readable = [key_id for key_id in key_ids if len(key_id) <= _LONGEST_KEY_ID]
            needs.append(Need(server_name, readable[:MOST_SIGNATURES], at))
        return needs

    def _task(self, event: Event, needs: Sequence[Need]) -> Task | SignatureError:
        """What is to be checked, or why nothing can be."""
        claims = []
        for need in needs:
            usable = [
                Claim(need.server_name, key_id, event.pdu["signatures"][need.server_name][key_id], keys)
                for key_id in need.key_ids
                if (keys := self._valid(need.server_name, key_id, need.at))
            ]
            if not usable:
                shown = f"{need.server_name} ({', '.join(need.key_ids)[:100]})"
                if self._known.expired(need):
                    return KeyExpired(f"the key of {shown} was not valid when the event was made")
                return KeyUnknown(f"no key of {shown} is known")
            claims.extend(usable)
        return Task(event, claims)

    def _valid(self, server_name: str, key_id: str, at: int | None) -> list[VerifyKey]:
        if server_name == self._own.server_name:
            return self._own.valid(key_id, at)
        return self._known.valid(server_name, key_id, at)

    # Requests and other JSON

    async def known_request_keys(self, server_name: str, key_ids: Collection[str]) -> Mapping[str, VerifyKey]:
        """Those of the keys that are known here already and valid now, by id."""
        if server_name not in self._known:
            await self._load([server_name])
        return self._known.in_use(server_name, key_ids, self._now())

    async def request_keys(self, server_name: str, key_ids: Collection[str]) -> Mapping[str, VerifyKey]:
        """Those that are valid now, asking the server if that may help. Never raises for what another server does."""
        self._known.hold((server_name,))
        try:
            need = Need(server_name, tuple(key_ids), self._now())
            await self._obtain([need], self._request_turns, server_name)
            return self._known.in_use(server_name, key_ids, self._now())
        finally:
            self._known.release((server_name,))

    def may_renew(self, server_name: str) -> bool:
        """Whether it is time to ask the server for its keys again."""
        return self._attempts.may_ask(server_name, self._now())

    async def renewed_request_keys(
        self, server_name: str, key_ids: Collection[str]
    ) -> Mapping[str, VerifyKey]:
        """As `request_keys`, asking the server although the keys are known: it may have another under the same id."""
        self._known.hold((server_name,))
        try:
            await self._ask_servers([server_name], self._request_turns, server_name)
            return self._known.in_use(server_name, key_ids, self._now())
        finally:
            self._known.release((server_name,))

    async def keys_for(self, server_names: Iterable[str]) -> dict[str, Mapping[str, VerifyKey]]:
        """The keys each server signs with now, by id: none where they are not to be had."""
        names = [name for name in set(server_names) if name != self._own.server_name]
        now = self._now()
        self._known.hold(names)
        try:
            await self._load([name for name in names if name not in self._known])
            lacking = [name for name in names if not self._known.in_use(name, None, now)]
            await self.refresh(lacking)
            return {name: self._known.in_use(name, None, self._now()) for name in names}
        finally:
            self._known.release(names)

    async def verify_json(self, value: dict[str, Any], server_name: str) -> None:
        """Raise SignatureError unless the server signed the object with a key that it uses now."""
        key_ids = signing_key_ids(value, server_name)[:MOST_SIGNATURES]
        if not key_ids:
            raise SignatureError(f"no signature of {server_name}")
        if server_name == self._own.server_name:
            now = self._now()
            keys: Mapping[str, VerifyKey] = {
                key_id: key for key_id in key_ids for key in self._own.valid(key_id, now)
            }
        else:
            keys = await self.request_keys(server_name, key_ids)
        if not keys:
            raise KeyUnknown(f"no valid key of {server_name} is known")
        check_json_signature(value, server_name, keys)

    # The way to a key

    async def refresh(self, server_names: Iterable[str]) -> None:
        """Ask these servers for their keys, those whose time has come. Never raises for what they do."""
        due = [name for name in set(server_names) if is_valid_server_name(name) and self.may_renew(name)]
        await self._ask_servers(due, self._request_turns, object())

    async def _obtain(
        self, needs: Iterable[Need], turns: FetchTurns, asker: Hashable, clock: Clock | None = None
    ) -> None:
        """Have what can be had of these keys in memory. `clock`: see `verify_events`."""
        needs = [need for need in self._unmet(needs) if is_valid_server_name(need.server_name)]
        if not needs:
            return
        now = self._now()
        names = {need.server_name for need in needs}
        # What another process has fetched meanwhile is in the database: looked for only when we would ask the server.
        await self._load([n for n in names if n not in self._known or self._attempts.may_ask(n, now)])
        needs = [need for need in self._unmet(needs) if self._attempts.may_ask(need.server_name, now)]
        names = {need.server_name for need in needs}
        crowd = len(names) >= CROWD
        if crowd:
            await self._ask_notaries(needs, clock)
            needs = self._unmet(needs)
        names = {need.server_name for need in needs}
        await self._patiently(self._ask_servers(names, turns, asker), names, FOR_SERVERS, clock)
        if not crowd:
            await self._ask_notaries(self._unmet(needs), clock)

    async def _patiently(
        self, asking: Coroutine[Any, Any, None], names: Collection[str], seconds: float, clock: Clock | None
    ) -> None:
        """Ask as long as it may take by the clock, if there is one; but what was answered is kept and read."""
        if clock is None:
            await asking
        else:
            await in_time(asking, clock, seconds, lambda: self._database_use.concerns(names))

    def _unmet(self, needs: Iterable[Need]) -> list[Need]:
        own = self._own.server_name
        return [need for need in needs if need.server_name != own and not self._known.meets(need)]

    async def _load(self, server_names: Collection[str]) -> None:
        if not server_names:
            return
        number = self._begun_loads = self._begun_loads + 1
        wanted = self._loads[number] = set(server_names)
        try:
            with self._database_use.of(server_names):
                keys = await self._store.get(server_names)
        finally:
            del self._loads[number]
        # An answer that comes late may be of before the keys were kept that a later load has found.
        for other, overtaken in self._loads.items():
            if other < number:
                overtaken.difference_update(wanted)
        self._known.put(wanted, [key for key in keys if key.server_name in wanted])

    async def _ask_servers(self, server_names: Collection[str], turns: FetchTurns, asker: Hashable) -> None:
        share = DeferredSemaphore(_BY_ONE_CALLER)
        asked = [
            share.run(_started, self._ask_server, name, turns, asker)
            for name in server_names
            if name != self._own.server_name
        ]
        try:
            await gatherResults(asked, consumeErrors=True)
        except FirstError as error:
            error.subFailure.raiseException()

    async def _ask_server(self, server_name: str, turns: FetchTurns, asker: Hashable) -> None:
        try:
            await self._fetches.do(server_name, self._fetch, turns, asker)
        except Overloaded:
            log.warning("too many servers' keys are being fetched", extra={"fields": {"server": server_name}})

    async def _fetch(self, server_name: str) -> None:
        try:
            published = await fetch_direct(self._wire, server_name, self._now())
        except RemoteFailure as failure:
            log_failure(server_name, failure)
            self._attempts.failed(server_name, self._now())
            return
        now = self._now()
        encoded = encode_canonical(published.answer, strict=False)
        answer = KeyAnswer(server_name, encoded.decode(), published.valid_until_ts, now)
        with self._database_use.of([server_name]):
            await self._store.keep_direct(
                server_name, published.keys, answer if len(encoded) <= _MOST_KEPT else None, now
            )
        await self._load([server_name])
        self._attempts.answered(server_name, now)

    async def _ask_notaries(self, needs: Sequence[Need], clock: Clock | None = None) -> None:
        """Ask one after the other, each about what is still missing."""
        seconds = for_each_notary(len(self._notaries))
        for notary in self._notaries:
            needs = [need for need in self._unmet(needs) if need.server_name != notary]
            if not needs:
                return
            names = {notary, *(need.server_name for need in needs)}
            await self._patiently(self._ask_notary(notary, needs), names, seconds, clock)

    async def _ask_notary(self, notary: str, needs: Sequence[Need]) -> None:
        keys = (await self.keys_for([notary]))[notary]
        if not keys:
            return
        names = list(dict.fromkeys(need.server_name for need in needs))
        for start in range(0, len(names), BATCH):
            batch = set(names[start : start + BATCH])
            asked = [need for need in needs if need.server_name in batch]
            try:
                answers = await fetch_notarised(self._wire, notary, keys, asked, self._now())
            except RemoteFailure as failure:
                log_failure(notary, failure)
                return
            await self._keep_notarised(answers)

    async def _keep_notarised(self, answers: Sequence[Published]) -> None:
        if not answers:
            return
        keys = [key for published in answers for key in published.keys]
        names = {published.server_name for published in answers}
        with self._database_use.of(names):
            await self._store.keep_notarised(keys, self._now())
        await self._load(names)


def _started(work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> Deferred[None]:
    return Deferred.fromCoroutine(work(*args))
