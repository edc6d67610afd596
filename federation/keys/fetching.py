# SPDX-License-Identifier: Apache-2.0
"""Asking for keys: a server for its own, a notary for those of others.

Owns the two requests and that an answer is what it must be. Neither is signed by us. Does not own when to ask, nor what
of the answers to keep.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from federation.client.errors import RemoteFailure, Unreachable
from federation.client.wire import Wire
from federation.keys.known import Need
from federation.keys.published import BadServerKeys, Published, read_published
from homeserver.errors import MatrixError
from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.errors import ProtocolError
from homeserver.protocol.signing import VerifyKey, check_json_signature
from homeserver.web.bodies import parse_signed

log = logging.getLogger(__name__)

#: Servers asked about in one request to a notary.
BATCH: Final = 50
_TIMEOUT: Final = 10.0
_NOTARY_TIMEOUT: Final = 20.0
_MOST_BYTES: Final = 64 * 1024
_MOST_NOTARY_BYTES: Final = 4 * 2**20
_MOST_ANSWERS: Final = 8 * BATCH


async def fetch_direct(wire: Wire, server_name: str, now: int) -> Published:
    """What a server says of its own keys. Raises RemoteFailure."""
    answer = await wire.send(
        server_name,
        "GET",
        "/_matrix/key/v2/server",
        headers={},
        body=None,
        timeout=_TIMEOUT,
        max_size=_MOST_BYTES,
    )
    if answer.status != 200:
        raise Unreachable(server_name, f"asked for its keys it answered {answer.status}")
    try:
        return read_published(parse_signed(answer.body), server_name, now=now)
    except (MatrixError, BadServerKeys) as error:
        raise Unreachable(server_name, f"its keys cannot be used: {error}") from error


async def fetch_notarised(
    wire: Wire, notary: str, notary_keys: Mapping[str, VerifyKey], needs: Sequence[Need], now: int
) -> list[Published]:
    """What a notary says of servers' keys, up to BATCH of them; answers that do not hold are left out.

    Raises RemoteFailure.
    """
    wanted: dict[str, dict[str, dict[str, int]]] = {}
    for need in needs:
        criteria = wanted.setdefault(need.server_name, {})
        for key_id in need.key_ids:
            least = criteria.setdefault(key_id, {"minimum_valid_until_ts": 0})
            least["minimum_valid_until_ts"] = max(least["minimum_valid_until_ts"], need.at or 0)
    answer = await wire.send(
        notary,
        "POST",
        "/_matrix/key/v2/query",
        headers={"Content-Type": "application/json"},
        body=encode_canonical({"server_keys": wanted}, strict=False),
        timeout=_NOTARY_TIMEOUT,
        max_size=_MOST_NOTARY_BYTES,
    )
    if answer.status != 200:
        raise Unreachable(notary, f"asked for others' keys it answered {answer.status}")
    try:
        value = parse_signed(answer.body)
    except MatrixError as error:
        raise Unreachable(notary, f"its answer is no JSON: {error}") from error
    answers = value.get("server_keys") if type(value) is dict else None
    if type(answers) is not list or len(answers) > _MOST_ANSWERS:
        raise Unreachable(notary, "its answer has no reasonable list of server_keys")
    return list(_held(notary, notary_keys, wanted, answers, now))


def _held(
    notary: str,
    notary_keys: Mapping[str, VerifyKey],
    wanted: Mapping[str, object],
    answers: Iterable[object],
    now: int,
) -> Iterable[Published]:
    for each in answers:
        if type(each) is not dict:
            continue
        server_name = each.get("server_name")
        if type(server_name) is not str or server_name not in wanted or server_name == notary:
            continue
        try:
            check_json_signature(each, notary, notary_keys)
            yield read_published(each, server_name, now=now)
        except (ProtocolError, BadServerKeys) as error:
            fields = {"notary": notary, "server": server_name, "reason": str(error)}
            log.info("a notary's answer was not taken", extra={"fields": fields})


def log_failure(server_name: str, failure: RemoteFailure) -> None:
    """A server's keys could not be had."""
    log.info("keys were not to be had", extra={"fields": {"server": server_name, "reason": failure.reason}})
