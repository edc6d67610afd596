# SPDX-License-Identifier: Apache-2.0
"""Frames of the WebSocket transport: one JSON object each. Owns their form; what methods mean is `methods`'."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

import orjson
from msgspec import Struct

from homeserver.errors import BadJson, MatrixError, NotJson, Unknown
from homeserver.protocol.errors import ProtocolError
from homeserver.web.bodies import parse_json
from homeserver.web.putting_off import NOT_DONE, unavailable_frame

logger = logging.getLogger(__name__)

SUBPROTOCOL: Final = "m.json"
LONGEST_FRAME = 65_536 + 150
"""Bytes a client may send in one frame: the largest event there can be, and what is wrapped around it."""


class Call(Struct, frozen=True):
    """A client's request."""

    id: str
    method: str
    params: Mapping[str, Any]


class BadFrame(Exception):
    """A frame that is no request; `id` is answered with where there is one."""

    def __init__(self, call_id: str | None, error: MatrixError) -> None:
        super().__init__(error.message)
        self.id = call_id
        self.error = error


def read_call(frame: bytes) -> Call:
    """The request in a frame. Raises BadFrame."""
    try:
        value = parse_json(frame)
    except (NotJson, BadJson) as error:
        raise BadFrame(None, error) from error
    if not isinstance(value, dict):
        raise BadFrame(None, BadJson("A frame must be a JSON object"))
    call_id = value.get("id")
    if not isinstance(call_id, str) or not call_id:
        raise BadFrame(None, BadJson("id must be a string, and not an empty one"))
    method = value.get("method")
    if not isinstance(method, str):
        raise BadFrame(call_id, BadJson("method must be a string"))
    # The first draft's table named it `param`, its examples `params`; clients of both exist.
    params = value.get("params", value.get("param"))
    if params is None:
        params = {}
    if not isinstance(params, dict):
        raise BadFrame(call_id, BadJson("params must be an object"))
    return Call(call_id, method, params)


def text_frame(text: bytes) -> bytes:
    """The bytes of one unmasked text frame, final and not compressed (RFC 6455 section 5.2)."""
    length = len(text)
    if length < 126:
        return bytes((0x81, length)) + text
    if length < 1 << 16:
        return b"\x81\x7e" + length.to_bytes(2, "big") + text
    return b"\x81\x7f" + length.to_bytes(8, "big") + text


def result_frame(call_id: str, result: Mapping[str, Any]) -> bytes:
    """The answer to a request."""
    return orjson.dumps({"id": call_id, "result": result})


def error_frame(call_id: str | None, error: Exception) -> bytes:
    """The answer to a request that failed, or to what was none. A failure of ours is logged, and not told."""
    fields: Mapping[str, object]
    if isinstance(error, MatrixError) and (error.errcode != "M_UNKNOWN" or isinstance(error, Unknown)):
        fields = error.as_dict()
    elif isinstance(error, ProtocolError):
        fields = {"errcode": error.errcode, "error": str(error)}
    elif isinstance(error, NOT_DONE):
        logger.warning("no database for a request over WebSocket: %s", error)
        fields = unavailable_frame()
    else:
        logger.error("a request over WebSocket failed", exc_info=error)
        fields = {"errcode": "M_UNKNOWN", "error": "Internal server error"}
    return orjson.dumps({"id": call_id, "error": fields})
