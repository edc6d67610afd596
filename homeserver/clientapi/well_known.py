# SPDX-License-Identifier: Apache-2.0
"""Discovery documents under `/.well-known/matrix/`, built once from the configuration.

Client-server API, "Well-known URIs" and `/.well-known/matrix/support`; federation API, "Server discovery".
"""

from collections.abc import Mapping
from typing import Any

import orjson

from homeserver.clientapi.rtc import WELL_KNOWN_KEY, transports
from homeserver.config.sections import Config, Contact
from homeserver.errors import NotFound
from homeserver.web.replies import JsonBytes, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import ROOT, Auth, Route


class WellKnownEndpoints:
    """`/.well-known/matrix/{client,server,support}`."""

    def __init__(self, config: Config) -> None:
        self._client = _encoded(client_document(config))
        self._server = _encoded(server_document(config))
        self._support = _encoded(support_document(config))

    def routes(self) -> tuple[Route, ...]:
        return tuple(
            Route(
                "GET",
                f"/.well-known/matrix/{name}",
                handler,
                under=ROOT,
                auth=Auth.NONE,
                limit="discovery",
            )
            for name, handler in (
                ("client", self.client),
                ("server", self.server),
                ("support", self.support),
            )
        )

    async def client(self, _request: MatrixRequest) -> Reply:
        """`GET /.well-known/matrix/client`."""
        return _found(self._client)

    async def server(self, _request: MatrixRequest) -> Reply:
        """`GET /.well-known/matrix/server`."""
        return _found(self._server)

    async def support(self, _request: MatrixRequest) -> Reply:
        """`GET /.well-known/matrix/support`."""
        return _found(self._support)


def client_document(config: Config) -> dict[str, object]:
    """Where clients find this server, whether they should encrypt new rooms, where group calls meet, and the operator's
    further keys.
    """
    foci = transports(config)
    return {
        "io.element.e2ee": {"default": config.rooms.encrypted_by_default != "off"},
        **({WELL_KNOWN_KEY: foci} if foci else {}),
        **config.well_known.client,
        "m.homeserver": {"base_url": config.base_url.rstrip("/")},
    }


def login_document(config: Config) -> Mapping[str, object] | None:
    """What a log-in tells the client to reconfigure itself with: nothing, unless the operator named the URL."""
    if config.public_baseurl is None:
        return None
    return {"m.homeserver": {"base_url": config.base_url.rstrip("/")}}


def server_document(config: Config) -> dict[str, object] | None:
    """Where other servers find this one, if anywhere."""
    delegated = config.delegated_server
    return None if delegated is None else {"m.server": delegated}


def support_document(config: Config) -> dict[str, object] | None:
    """Whom users can turn to, if anybody is named."""
    document: dict[str, object] = {}
    if config.well_known.contacts:
        document["contacts"] = [_contact(contact) for contact in config.well_known.contacts]
    if config.well_known.support_page is not None:
        document["support_page"] = config.well_known.support_page
    return document or None


def _contact(contact: Contact) -> dict[str, str]:
    shown = {"role": contact.role}
    if contact.matrix_id is not None:
        shown["matrix_id"] = contact.matrix_id
    if contact.email_address is not None:
        shown["email_address"] = contact.email_address
    return shown


def _encoded(document: Mapping[str, object] | None) -> JsonBytes | None:
    return None if document is None else JsonBytes(orjson.dumps(document, default=_plain))


def _plain(value: Any) -> dict[str, object]:
    """Configured mappings are not all `dict`."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"not for JSON: {value!r}")


def _found(document: JsonBytes | None) -> JsonBytes:
    if document is None:
        raise NotFound("This server publishes no such document")
    return document
