# SPDX-License-Identifier: Apache-2.0
"""One encrypted room in which all kinds of clients talk: matrix-js-sdk, matrix-nio and mautrix, with their crypto.

Each client is a process of its own: it logs in, joins where it is invited, greets when everybody is there, and says
that it has heard all when it has read every greeting, so that the conversation itself keeps them in step.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.interop.conversation import record_of
from tests.interop.environments import js_client, python

ROUNDS = ("hello from {}", "{} has heard all")
CLIENTS = 3


def assert_all_understand_each_other(accounts: Sequence[tuple[str, str, str]]) -> None:
    """Let accounts, each (base URL, user id, password), invited to one encrypted room, talk through the clients."""
    interpreter = str(python())
    clients = [
        js_client("room"),
        [interpreter, "-m", "tests.interop.nio_room"],
        [interpreter, "-m", "tests.interop.mautrix_room"],
    ]
    assert len(accounts) == len(clients) == CLIENTS
    everybody = json.dumps([user_id for _, user_id, _ in accounts])
    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [
            pool.submit(
                record_of,
                client,
                json.dumps({"baseUrl": base_url, "user": user_id, "password": password}),
                everybody,
            )
            for client, (base_url, user_id, password) in zip(clients, accounts, strict=True)
        ]
        failures = [error for each in running if (error := each.exception()) is not None]
        assert not failures, "\n\n".join(
            map(str, reversed(failures))
        )  # one that fails keeps the others waiting
        records = [each.result() for each in running]
    said = sorted(text.format(user_id) for text in ROUNDS for _, user_id, _ in accounts)
    for client, record in zip(clients, records, strict=True):
        (heard,) = record["heard"]
        assert (sorted(heard["texts"]), heard["problems"]) == (said, []), client[-1]
    refused = records[0]["refused"][0]["requests"]
    assert not [request for request in refused if not request.startswith("404 ")], refused
