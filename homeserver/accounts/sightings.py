# SPDX-License-Identifier: Apache-2.0
"""Notes when, where and by what each device was last used, without a write per request.

Owns how coarse that is: a device is written at most once a minute, and the devices of a few seconds in one statement.
A crash loses some seconds of sightings, which nobody was promised.
"""

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from homeserver.accounts.credentials import Clock
from storage.devices import DeviceStore, Sighting

_COARSE_MS = 60_000
_FLUSH_SECONDS = 10.0
_MOST_USER_AGENT = 500


class Sightings:
    """Collects sightings and writes them in batches, between `start` and `stop`."""

    _log = Logger()

    def __init__(self, reactor: IReactorTime, devices: DeviceStore, clock: Clock) -> None:
        self._devices = devices
        self._clock = clock
        self._written: dict[tuple[str, str], int] = {}
        self._waiting: dict[tuple[str, str], Sighting] = {}
        self._loop: LoopingCall = LoopingCall(lambda: Deferred.fromCoroutine(self._tick()))
        self._loop.clock = reactor

    def note(self, user_id: str, device_id: str, ip: str, user_agent: str) -> None:
        """A request of this device is being served. Cheap: called for every one."""
        now = self._clock()
        key = (user_id, device_id)
        if now - self._written.get(key, 0) < _COARSE_MS:
            return
        self._written[key] = now
        clean = user_agent[:_MOST_USER_AGENT].replace("\0", "")
        self._waiting[key] = Sighting(user_id, device_id, now, ip, clean)

    def start(self) -> None:
        """Begin to write what is noted."""
        self._loop.start(_FLUSH_SECONDS, now=False)

    async def stop(self) -> None:
        """Write what is left, and stop."""
        if self._loop.running:
            self._loop.stop()
        await self.flush()

    async def flush(self) -> None:
        """Write what was noted since the last time."""
        old = self._clock() - _COARSE_MS
        self._written = {key: ts for key, ts in self._written.items() if ts > old}
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, {}
        await self._devices.record(list(waiting.values()))

    async def _tick(self) -> None:
        try:
            await self.flush()
        except Exception:
            # What was noted is lost, and the devices are seen again in a minute.
            self._log.failure("could not record when devices were last seen")
