# SPDX-License-Identifier: Apache-2.0
"""The authorization service of group calls, for this server's users and those of others (MSC4195).

Owns the two forms in which it is asked, `sfu/get`, which names a device, and `get_token`, which names a member of a
slot; and LiveKit's webhook, signed with the shared key. None needs an access token: the OpenID token in the body is the
proof. It stands under `/_matrix/`, where every reverse proxy in front of a Matrix server leads already.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from homeserver.calls.rtc.admission import Admission, Member, Proof
from homeserver.calls.rtc.leaves import DelegatedLeaves
from homeserver.calls.rtc.tokens import LiveKitTokens
from homeserver.clientapi.rtc import SERVICE_PATH
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply, Response
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import ROOT, Auth, Handler, Route

_Text = Annotated[str, Meta(min_length=1, max_length=255)]
_DelayId = Annotated[str, Meta(max_length=255)]
_Token = Annotated[str, Meta(min_length=1, max_length=4096)]
_LARGEST: Final = 16 * 1024
_LARGEST_WEBHOOK: Final = 256 * 1024
_CAME: Final = "participant_joined"
_MOVES: Final = frozenset({_CAME, "participant_left", "participant_connection_aborted"})


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
    delay_id: _DelayId | None = None


class MemberRequest(Struct, frozen=True):
    """`POST …/get_token`."""

    room_id: _Text
    slot_id: _Text
    openid_token: OpenIdBody
    member: MemberBody
    delay_id: _DelayId | None = None


class DelegationRequest(Struct, frozen=True):
    """`POST …/delegate_delayed_leave`. How long the delay is need not be said: the event is here."""

    room_id: _Text
    slot_id: _Text
    openid_token: OpenIdBody
    member: MemberBody
    delay_id: _Text


class WebhookRoom(Struct, frozen=True):
    """The room of a webhook."""

    name: str = ""


class WebhookParticipant(Struct, frozen=True):
    """The participant of a webhook."""

    identity: str = ""


class Webhook(Struct, frozen=True):
    """What LiveKit tells."""

    event: str = ""
    room: WebhookRoom | None = None
    participant: WebhookParticipant | None = None


class LiveKitEndpoints:
    """`…/sfu/get`, `…/get_token`, `…/delegate_delayed_leave`, `…/sfu_webhook`, `…/healthz` under `SERVICE_PATH`."""

    def __init__(self, admission: Admission, leaves: DelegatedLeaves, tokens: LiveKitTokens) -> None:
        self._admission = admission
        self._leaves = leaves
        self._tokens = tokens

    def routes(self) -> tuple[Route, ...]:
        return (
            self._route("POST", "/sfu/get", self.sfu_get),
            self._route("POST", "/get_token", self.get_token),
            self._route("POST", "/delegate_delayed_leave", self.delegate),
            self._route(
                "POST", "/sfu_webhook", self.webhook, limit="sfu_webhooks", max_body=_LARGEST_WEBHOOK
            ),
            self._route("GET", "/healthz", self.healthz),
        )

    async def sfu_get(self, request: MatrixRequest) -> Reply:
        """`POST …/sfu/get`."""
        body = request.body(DeviceRequest)
        ticket = await self._admission.admit_by_device(
            _proof(body.openid_token),
            room_id=body.room,
            device_id=body.device_id,
            delay_id=body.delay_id or None,
        )
        return {"url": ticket.url, "jwt": ticket.jwt}

    async def get_token(self, request: MatrixRequest) -> Reply:
        """`POST …/get_token`."""
        body = request.body(MemberRequest)
        ticket = await self._admission.admit(_proof(body.openid_token), _member(body), body.delay_id or None)
        return {"url": ticket.url, "jwt": ticket.jwt}

    async def delegate(self, request: MatrixRequest) -> Reply:
        """`POST …/delegate_delayed_leave`."""
        body = request.body(DelegationRequest)
        await self._admission.delegate(_proof(body.openid_token), _member(body), body.delay_id)
        return {}

    async def webhook(self, request: MatrixRequest) -> Reply:
        """`POST …/sfu_webhook`: LiveKit tells that somebody came or went."""
        self._tokens.check_webhook(request.header("Authorization") or "", request.content)
        told = request.body(Webhook)
        if told.event in _MOVES and told.room is not None and told.participant is not None:
            came = told.event == _CAME
            await self._leaves.heard(told.room.name, told.participant.identity, came=came)
        return {}

    async def healthz(self, _request: MatrixRequest) -> Reply:
        """`GET …/healthz`: the service is there."""
        return Response(200)

    def _route(
        self,
        method: str,
        path: str,
        handler: Handler,
        *,
        limit: str = "rtc",
        max_body: int = _LARGEST,
    ) -> Route:
        return Route(
            method,
            SERVICE_PATH + path,
            handler,
            under=ROOT,
            auth=Auth.NONE,
            limit=limit,
            max_body=max_body,
        )


def _proof(body: OpenIdBody) -> Proof:
    return Proof(access_token=body.access_token, server_name=body.matrix_server_name)


def _member(body: MemberRequest | DelegationRequest) -> Member:
    return Member(
        room_id=body.room_id,
        slot_id=body.slot_id,
        user_id=body.member.claimed_user_id,
        device_id=body.member.claimed_device_id,
        id=body.member.id,
    )
