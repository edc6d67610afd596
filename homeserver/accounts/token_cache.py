# SPDX-License-Identifier: Apache-2.0
"""What this process remembers of access tokens, so that most requests are authenticated without a query.

Owns the memory and when to forget. Four rules keep it right: whatever changes a user's tokens, rights or standing
names the user on the channel `storage.tokens.REVOKED`, in the same transaction; whoever made the change awaits `revoke`
before answering, so that no process answers the next request by what it remembers; a look-up that was under way while
anything was forgotten is not remembered, as it may have read what is no more; and nothing is remembered for longer
than a minute, which bounds the time an outage of the notifying connection can matter.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable

from homeserver.accounts.credentials import Clock
from storage.tokens import TokenOwner

_LIFETIME_MS = 60_000


class TokenCache:
    """Owners of access tokens by digest, least recently used first; and who wants to hear of a user's changes."""

    def __init__(
        self, clock: Clock, *, size: int = 20_000, told: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Remembers up to `size` tokens (each some 700 bytes). `told`: see `homeserver.stream.telling.Telling.told`."""
        self._told = told
        self._clock = clock
        self._size = size
        self._entries: OrderedDict[bytes, tuple[TokenOwner, int]] = OrderedDict()
        self._by_user: defaultdict[str, set[bytes]] = defaultdict(set)
        self._watchers: defaultdict[str, list[Callable[[], None]]] = defaultdict(list)
        self.epoch = 0
        """Grows whenever something is forgotten; `put` is given its value from before the look-up."""

    @property
    def size(self) -> int:
        """Tokens that are remembered."""
        return len(self._entries)

    def get(self, token_hash: bytes) -> TokenOwner | None:
        """What is remembered of a token, if it is young enough."""
        entry = self._entries.get(token_hash)
        if entry is None:
            return None
        owner, until = entry
        if until <= self._clock():
            self._drop(token_hash)
            return None
        self._entries.move_to_end(token_hash)
        return owner

    def put(self, token_hash: bytes, owner: TokenOwner, epoch: int) -> None:
        """Remember the result of a look-up that was begun at `epoch`."""
        if epoch != self.epoch:
            return
        self._entries[token_hash] = (owner, self._clock() + _LIFETIME_MS)
        self._by_user[owner.user_id].add(token_hash)
        if len(self._entries) > self._size:
            self._drop(next(iter(self._entries)))

    def forget(self, user_id: str) -> None:
        """Forget a user's tokens and tell who watches the user."""
        self.epoch += 1
        for token_hash in self._by_user.pop(user_id, ()):
            self._entries.pop(token_hash, None)
        for callback in list(self._watchers.get(user_id, ())):
            callback()

    async def revoke(self, user_id: str) -> None:
        """`forget`, and return once the other processes forget, too, before they answer anybody.

        To be awaited once the change stands.
        """
        self.forget(user_id)
        if self._told is not None:
            await self._told()

    def forget_all(self) -> None:
        """Forget everything, as notifications may have been missed; every watcher is told."""
        self.epoch += 1
        self._entries.clear()
        self._by_user.clear()
        for callbacks in list(self._watchers.values()):
            for callback in list(callbacks):
                callback()

    def watch(self, user_id: str, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called when the user's tokens, rights or standing may have changed.

        For what outlives a request (a stream), which then authenticates its token again. Returns the way to stop.
        """
        self._watchers[user_id].append(callback)

        def stop() -> None:
            callbacks = self._watchers.get(user_id)
            if callbacks is not None and callback in callbacks:
                callbacks.remove(callback)
                if not callbacks:
                    del self._watchers[user_id]

        return stop

    def _drop(self, token_hash: bytes) -> None:
        owner, _ = self._entries.pop(token_hash)
        hashes = self._by_user.get(owner.user_id)
        if hashes is not None:
            hashes.discard(token_hash)
            if not hashes:
                del self._by_user[owner.user_id]
