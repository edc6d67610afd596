# SPDX-License-Identifier: Apache-2.0
"""One-time keys claimed at two server processes while more are uploaded: each is given out once, and none is lost."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

from tests.devices.devices_fixture import Device
from tests.serving import Account, ServerProcess, postgres, serving

ALGORITHM = "signed_curve25519"
CLAIMERS = 8
BATCHES, BATCH = 6, 10
UPLOAD, CLAIM = "/_matrix/client/v3/keys/upload", "/_matrix/client/v3/keys/claim"


class Claimer(threading.Thread):
    """Claims a key of each device, again and again, until no more are uploaded and there are none left."""

    def __init__(
        self, server: ServerProcess, token: str, devices: list[Device], uploaded: threading.Event
    ) -> None:
        super().__init__()
        self._server = server
        self._token = token
        self._wanted = {device.user_id: {device.device_id: ALGORITHM} for device in devices}
        self._uploaded = uploaded
        self.got: list[tuple[str, str]] = []
        self.failures: list[str] = []

    def run(self) -> None:
        while not self.failures:
            was_all = self._uploaded.is_set()
            answer = self._server.call("POST", CLAIM, {"one_time_keys": self._wanted}, token=self._token)
            if answer.status != 200 or answer.body["failures"]:
                self.failures.append(f"{answer.status} {answer.body}")
                return
            given = [
                (user_id, name)
                for user_id, of_user in answer.body["one_time_keys"].items()
                for keys in of_user.values()
                for name in keys
            ]
            self.got += given
            if was_all and not given:
                return


def test_each_key_is_given_out_once_whichever_process_is_asked(tmp_path: Path) -> None:
    """Uploads come twice, as from a client that lost the answer, the second time to the other process."""
    with (
        postgres(tmp_path / "db") as url,
        serving(tmp_path / "a", database_url=url) as first,
        first.beside(tmp_path / "b") as second,
    ):
        servers = (first, second)
        owners = [first.register(name) for name in ("alice", "bob")]
        asking = first.register("carol")
        devices = [Device(owner.user_id, owner.device_id) for owner in owners]
        uploaded = threading.Event()
        claimers = [Claimer(servers[n % 2], asking.access_token, devices, uploaded) for n in range(CLAIMERS)]
        for owner, device in zip(owners, devices, strict=True):
            _upload(first, owner, device_keys=device.keys())
        for claimer in claimers:
            claimer.start()
        try:
            for number in range(BATCHES):
                for owner, device in zip(owners, devices, strict=True):
                    keys = device.one_time_keys(BATCH, number * BATCH)
                    for n in range(2):
                        _upload(servers[(number + n) % 2], owner, one_time_keys=keys)
        finally:
            uploaded.set()
            for claimer in claimers:
                claimer.join()
        assert [failure for claimer in claimers for failure in claimer.failures] == []
        claimed = Counter(key for claimer in claimers for key in claimer.got)
        assert claimed == Counter(
            (device.user_id, name) for device in devices for name in device.one_time_keys(BATCHES * BATCH)
        )
        for asked in (claimers[::2], claimers[1::2]):
            assert any(claimer.got for claimer in asked), "one of the processes gave none"


def _upload(server: ServerProcess, owner: Account, **body: object) -> None:
    answer = server.call("POST", UPLOAD, body, token=owner.access_token)
    assert answer.status == 200, answer.body
