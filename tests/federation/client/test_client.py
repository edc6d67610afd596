# SPDX-License-Identifier: Apache-2.0
"""Requests to other servers: signed as sent, read strictly, and counted against whom they fail at."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from federation.client.availability import Patience
from federation.client.client import target_of
from federation.client.errors import BackingOff, RemoteError, Unreachable
from homeserver.protocol.canonical_json import encode_canonical
from tests.federation.client.ours import Ours
from tests.federation.keys.world import KEY, US
from tests.federation.servers import Received, Refused


@pytest.fixture
def ours() -> Ours:
    """A fresh one."""
    return Ours()


async def test_requests_are_signed_as_they_are_sent(ours: Ours) -> None:
    """Every segment and value percent-encoded once, the body canonical, the signature over both."""
    ours.answer("PUT", "/v2/send_join/{room}/{event}", {"done": True})
    ours.answer("GET", "/v1/state/{room}", {})
    room, event = "!r/ö?#:hydra.test", "$e%2F:hydra.test"
    body = {"z": 1, "a": {"ä": "x"}, "wide": 2**70}
    assert await ours.client.put("hydra.test", ("v2", "send_join", room, event), body) == {"done": True}
    await ours.client.get("hydra.test", ("v1", "state", room), query={"event_id": event, "v": ["a b", "&="]})
    put, get = ours.hydra.received
    assert put.raw == encode_canonical(body, strict=False)
    assert dict(put.parameters) == {"room": room, "event": event}
    assert get.target.endswith("?event_id=%24e%252F%3Ahydra.test&v=a%20b&v=%26%3D")
    assert get.query == {"event_id": [event], "v": ["a b", "&="]}
    for request in (put, get):
        request.check_signature("hydra.test", {KEY.key_id: KEY.verify_key})
    assert (get.raw, put.origin) == (b"", US)


async def test_a_body_may_be_encoded_already(ours: Ours) -> None:
    """Transactions are put together from events' stored texts."""
    ours.answer("PUT", "/v1/send/{txn}", {"pdus": {}})
    await ours.calls.send_transaction("hydra.test", "1", b'{"edus":[],"pdus":[{"a":1.0}]}')
    ours.hydra.received[0].check_signature("hydra.test", {KEY.key_id: KEY.verify_key})


def test_a_target_without_values_has_no_question_mark() -> None:
    """An empty list is no parameter."""
    assert target_of(("v1", "x"), {"ver": []}) == target_of(("v1", "x"), None) == "/_matrix/federation/v1/x"


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'{"n": 18446744073709551617}', {"n": 2**64 + 1}),
        (b'{"n": 9007199254740993}', {"n": 2**53 + 1}),
        (b'{"n": 0.1}', {"n": 0.1}),
        (b'{"n": NaN}', None),
        (b'{"n": 1e999}', None),
        (b'{"n": "\\ud800"}', None),
        (b"[" * 300 + b"]" * 300, None),
        (b'{"n": ' + b"1" * 5000 + b"}", None),
        (b"<html>", None),
        (b"", None),
    ],
)
async def test_answers_are_read_exactly_or_not_at_all(ours: Ours, raw: bytes, value: Any) -> None:
    """Whatever integer old room versions allow arrives as it is; what is no JSON is no answer."""
    ours.answer("GET", "/v1/version", raw)
    if value is not None:
        assert await ours.client.get("hydra.test", ("v1", "version")) == value
        return
    with pytest.raises(Unreachable):
        await ours.client.get("hydra.test", ("v1", "version"))
    assert ours.availability.told == ["failed"]


@pytest.mark.parametrize(
    ("status", "told"),
    [
        *((status, "succeeded") for status in (400, 401, 404, 429, 500)),
        (502, "failed"),
        (503, "failed"),
        (524, "failed"),
    ],
)
async def test_an_error_is_the_servers_word_unless_a_proxy_speaks(ours: Ours, status: int, told: str) -> None:
    """Only a server that is away is left alone, not one that refuses something or stumbles over it."""

    def refuse(_request: Received) -> Any:
        raise Refused(status, "M_FORBIDDEN", "no" * 1000, soft=True)

    ours.hydra.on("GET", "/_matrix/federation/v1/version", refuse)
    with pytest.raises(RemoteError) as caught:
        await ours.client.get("hydra.test", ("v1", "version"))
    error = caught.value
    assert (error.status, error.errcode, len(error.error)) == (status, "M_FORBIDDEN", 500)
    assert error.body["soft"] is True
    assert ours.availability.told == [told]


async def test_an_error_that_is_no_json(ours: Ours) -> None:
    """As proxies answer."""

    def refuse(_request: Received) -> Any:
        refusal = Refused(404)
        refusal.body = b"<html>"  # type: ignore[assignment]
        raise refusal

    ours.hydra.on("GET", "/_matrix/federation/v1/version", refuse)
    with pytest.raises(RemoteError) as caught:
        await ours.client.get("hydra.test", ("v1", "version"))
    assert (caught.value.errcode, caught.value.error, caught.value.body) == ("M_UNKNOWN", "", None)


async def test_a_server_in_back_off_is_not_tried(ours: Ours) -> None:
    """Unless a person waits for just this one."""
    ours.answer("GET", "/v1/version", {})
    ours.availability.open = False
    with pytest.raises(BackingOff):
        await ours.client.get("hydra.test", ("v1", "version"))
    assert ours.hydra.received == []
    await ours.client.get("hydra.test", ("v1", "version"), patience=Patience.IGNORE_BACKOFF)
    assert ours.availability.told == ["succeeded"]


@pytest.mark.parametrize("destination", [US, "", "no name", "a/b", "x" * 300])
async def test_what_is_no_other_server_is_not_asked(ours: Ours, destination: str) -> None:
    """Ourselves among them: a loop through the network would be signed by us."""
    with pytest.raises(Unreachable):
        await ours.client.get(destination, ("v1", "version"))
    assert ours.availability.told == []


async def test_answers_are_bounded(ours: Ours) -> None:
    """By the call."""
    ours.answer("GET", "/v1/version", {"server": {"name": "x" * 2_000_000}})
    with pytest.raises(Unreachable):
        await ours.calls.version("hydra.test")


async def test_requests_are_counted(ours: Ours) -> None:
    """By endpoint and outcome, never by destination."""
    registry = CollectorRegistry()
    registry.register(ours.metrics)
    ours.answer("GET", "/v1/version", {})
    await ours.calls.version("hydra.test")
    with pytest.raises(RemoteError):
        await ours.calls.event("hydra.test", "$x")
    with pytest.raises(Unreachable):
        await ours.calls.version("gone.test")

    def count(endpoint: str, outcome: str) -> float | None:
        labels = {"endpoint": endpoint, "outcome": outcome}
        return registry.get_sample_value("lares_federation_requests_total", labels)

    assert count("version", "ok") == count("version", "unreachable") == count("event", "refused") == 1
