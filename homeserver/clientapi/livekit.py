# SPDX-License-Identifier: Apache-2.0
"""The authorization service of group calls, for this server's users and those of others (MSC4195).

Owns the two forms in which it is asked: `sfu/get`, which names a device, and `get_token`, which names a member of a
slot. Neither needs an access token: the OpenID token in the body is the proof. It stands under `/_matrix/`, where every
reverse proxy in front of a Matrix server leads already.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from homeserver.calls.rtc.admission import Admission, Proof, Ticket
from homeserver.errors import BadJson
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply, Response
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import ROOT, Auth, Handler, Route

SERVICE_PATH: Final = "/_matrix/client/unstable/org.lares.livekit"

_Text = Annotated[str, Meta(min_length=1, max_length=255)]
_Token = Annotated[str, Meta(min_length=1, max_length=4096)]
_LARGEST: Final = 16 * 1024


class OpenIdBody(Struct, frozen=True):
    """What `/openid/request_token` gave; the type and the lifetime do not matter here."""

    access_token: _Token
    matrix_server_name: _Text


class MemberBody(Struct, frozen=True):
    """A member of a slot."""

    id: _Text
    claimed_user_id: _Text
    claimed_device_id: _Text


class DeviceRequest(Struct, frozen=True):
    """`POST …/sfu/get`."""

    room: _Text
    openid_token: OpenIdBody
    device_id: Annotated[str, Meta(max_length=255)] = ""
    delay_id: str | None = None


class MemberRequest(Struct, frozen=True):
    """`POST …/get_token`."""

    room_id: _Text
    slot_id: _Text
    openid_token: OpenIdBody
    member: MemberBody
    delay_id: str | None = None


class LiveKitEndpoints:
    """`…/sfu/get`, `…/get_token`, `…/healthz` under `SERVICE_PATH`."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def routes(self) -> tuple[Route, ...]:
        return (
            self._route("POST", "/sfu/get", self.sfu_get),
            self._route("POST", "/get_token", self.get_token),
            self._route("GET", "/healthz", self.healthz),
        )

    async def sfu_get(self, request: MatrixRequest) -> Reply:
        """`POST …/sfu/get`."""
        body = request.body(DeviceRequest)
        _refuse_delegation(body.delay_id)
        return _reply(
            await self._admission.admit_by_device(
                _proof(body.openid_token), room_id=body.room, device_id=body.device_id
            )
        )

    async def get_token(self, request: MatrixRequest) -> Reply:
        """`POST …/get_token`."""
        body = request.body(MemberRequest)
        _refuse_delegation(body.delay_id)
        return _reply(
            await self._admission.admit(
                _proof(body.openid_token),
                room_id=body.room_id,
                slot_id=body.slot_id,
                user_id=body.member.claimed_user_id,
                device_id=body.member.claimed_device_id,
                member_id=body.member.id,
            )
        )

    async def healthz(self, _request: MatrixRequest) -> Reply:
        """`GET …/healthz`: the service is there."""
        return Response(200)

    def _route(self, method: str, path: str, handler: Handler) -> Route:
        return Route(
            method,
            SERVICE_PATH + path,
            handler,
            under=ROOT,
            auth=Auth.NONE,
            limit="rtc",
            max_body=_LARGEST,
        )


def _refuse_delegation(delay_id: str | None) -> None:
    """Whoever hands over their delayed leave event must not believe that it is looked after."""
    if delay_id:
        raise BadJson("Delayed events are not looked after here")


def _proof(body: OpenIdBody) -> Proof:
    return Proof(access_token=body.access_token, server_name=body.matrix_server_name)


def _reply(ticket: Ticket) -> Reply:
    return {"url": ticket.url, "jwt": ticket.jwt}
