# SPDX-License-Identifier: Apache-2.0
"""The encrypted scenarios in `js/`, and what must have been seen in the great one, wherever the accounts are."""

import json

from tests.interop.conversation import Record, record_of
from tests.interop.environments import js_client

_SPOKEN = {
    "a question": (2, ["hello", "is anybody there?"]),
    "an answer": (2, ["hello yourself"]),
    "to a second device": (3, ["how many are you?"]),
    "from a second device": (3, ["two"]),
    "from a late device": (4, ["now I have read it all"]),
    "without the first device": (3, ["one of you has left"]),
    "logged in again": (4, ["here I am again"]),
    "to all": (4, ["welcome back"]),
}
"""Step → how many devices listen, what is said."""


def held(*accounts: tuple[str, str, str], scenario: str = "encryption") -> Record:
    """Let two accounts, each (base URL, user id, password), hold a conversation; what their devices saw."""
    arguments = [
        json.dumps({"baseUrl": base_url, "user": user_id, "password": password})
        for base_url, user_id, password in accounts
    ]
    return record_of(js_client(scenario), *arguments)


def assert_all_is_read(record: Record) -> None:
    """Every device read every message ever sent, in the order sent, and every proof of identity held."""
    bootstrapped = {"cross_signing": True, "secret_storage": True, "backup": True}
    assert record["bootstrapped"] == [bootstrapped] * 2
    assert record["verified each other"] == [{"same_string": True}]
    assert record["verified a device"] == [{"same_string": True}]
    assert record["recovered"] == [{"cross_signed": True, "all_restored": True}] * 2
    said: list[str] = []
    for step, (devices, texts) in _SPOKEN.items():
        said += texts
        (seen,) = record[step]
        assert len(seen["views"]) == devices, step
        assert seen["views"] == dict.fromkeys(seen["views"], said), step
    refused = record["refused"][0]["requests"]
    assert not [request for request in refused if not request.startswith("404 ")], refused


def assert_history_is_read(record: Record) -> None:
    """The newcomer read what was said before, and both what was said then."""
    before = ["I am alone", "and talk to myself"]
    assert record["before"] == [{"texts": before}]
    assert record["after"] == [{"texts": sorted([*before, "not any more", "welcome"])}] * 2
    refused = record["refused"][0]["requests"]
    assert not [request for request in refused if not request.startswith("404 ")], refused
