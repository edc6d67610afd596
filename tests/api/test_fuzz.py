# SPDX-License-Identifier: Apache-2.0
"""Whatever is asked of any endpoint: an answer that makes sense, no failure of ours, and nothing half done.

`LARES_FUZZ=1000 pytest tests/api/test_fuzz.py` tries so many requests of each endpoint instead of a few.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.api.endpoints import ENDPOINTS, Endpoint
from tests.api.generators import Attempt, attempts
from tests.api.wire import check_cors, check_error_form, check_error_object
from tests.api.world import World
from tests.serving import Answer, ServerProcess, usual_workers

EXAMPLES = int(os.environ.get("LARES_FUZZ", "20" if usual_workers() == 1 else "8"))
"""What a body is taken for is a matter of one process; with several, it is whether the next knows of it."""
WRITING = [
    endpoint
    for endpoint in ENDPOINTS
    if endpoint.body is not None
    and endpoint.access in {"users", "guests"}
    and "/3pid" not in endpoint.template
]
#: What no endpoint that takes a body can take for one.
BROKEN = (
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"1",
    b"{} {}",
    b"{'a': 1}",
    b'{"a": NaN}',
    b'{"a": Infinity}',
    b'{"a": -Infinity}',
    b'{"a": "\xff"}',
    b'{"a": "\\ud800"}',
    b'\xef\xbb\xbf{"a": 1}',
    b'{"a": 01}',
    b'{"a": 1,}',
    b'{"a": 9007199254740992}',
    b'{"a": ' + b"9" * 400 + b"}",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"a":' * 300 + b"1" + b"}" * 300,
    b"\0",
    b'{"a": 1}'.decode().encode("utf-16"),
)


@pytest.fixture(scope="module")
def fuzzed(server: ServerProcess) -> World:
    """A world of its own, as it will not stay as it was."""
    return World(server)


def _names_another_server(answer: Answer) -> bool:
    """Whether it is the one 5xx that is right: a parameter named a server that cannot be reached."""
    return answer.status == 502 and str(answer.body["error"]).endswith(
        "could not be reached, or made no sense"
    )


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=str)
def test_every_request_is_answered_well(fuzzed: World, endpoint: Endpoint) -> None:
    """Never 5xx; every refusal in the standard form; and what is refused changes nothing that a client can see."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize="LARES_FUZZ" not in os.environ,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(attempts(fuzzed, endpoint))
    def attempt(asked: Attempt) -> None:
        since = fuzzed.me.syncs(fuzzed.values["since"])["next_batch"]
        caller = fuzzed.passer_by() if "/logout" in endpoint.template else fuzzed.caller(endpoint)
        answer = caller.call(asked.method, asked.target, asked.body, headers=asked.headers)
        assert answer.status < 500 or _names_another_server(answer), answer
        check_cors(answer)
        if answer.status >= 400:
            check_error_object(answer)
            assert fuzzed.me.news(since) == [], "refused, and yet something happened"

    attempt()


@pytest.mark.parametrize("endpoint", WRITING, ids=str)
def test_broken_bodies_change_nothing(world: World, endpoint: Endpoint) -> None:
    """Not JSON, or no JSON the specification means: refused as such, everywhere, without a trace."""
    before = world.me.sees()
    for body in BROKEN:
        answer = world.me.call(endpoint.method, world.path(endpoint.paths[0]), body)
        assert answer.status == 400, (body[:60], answer)
        check_error_form(answer)
        assert answer.body["errcode"] in {"M_NOT_JSON", "M_BAD_JSON"}, (body[:60], answer)
    assert world.me.sees() == before


@given(st.binary(max_size=64))
@settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_as_a_token(world: World, raw: bytes) -> None:
    """Bytes that no header may hold are the HTTP layer's to refuse."""
    visible = "".join(chr(byte) for byte in raw if byte > 32 and byte != 127)
    answer = world.me.wire.call(
        "GET", "/_matrix/client/v3/account/whoami", headers={"Authorization": f"Bearer {visible}"}
    )
    assert answer.status == 401, answer
    check_error_form(answer)
