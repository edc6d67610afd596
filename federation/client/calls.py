# SPDX-License-Identifier: Apache-2.0
"""What can be asked of another server: one method per endpoint of the server-server API.

Owns paths, parameters, time and size limits of each call, and that an answer has the shape the specification gives it
(BadAnswer if not), down to where a list of what ends. Events in answers stay unchecked dicts. Failures are those of
`federation.client.errors`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from federation.client.answers import (
    AliasAnswer,
    DeviceListAnswer,
    JoinAnswer,
    MembershipTemplate,
    NearestEvent,
    Pdu,
    RoomState,
    StateIds,
)
from federation.client.availability import Patience
from federation.client.client import POLICY, FederationClient
from federation.client.errors import RemoteError
from federation.client.reading import Reading
from homeserver.protocol.signing import POLICY_KEY_ID

Joining = Literal["join", "knock", "leave"]

_MIB: Final = 2**20
#: Bytes of an answer that holds one event, a handful of fields, a bounded list; of one that holds a room.
_SMALL: Final = 1 * _MIB
_MIDDLE: Final = 16 * _MIB
_ROOM: Final = 96 * _MIB
#: Seconds. A server computes the state of a large room before it says the first word.
_LONG: Final = 90.0
_VERY_LONG: Final = 300.0


class FederationCalls:
    """Calls of other servers. `destination` is a server name; timestamps are milliseconds since 1970."""

    def __init__(self, client: FederationClient) -> None:
        self._client = client

    # Membership

    async def make_membership(
        self, destination: str, kind: Joining, room_id: str, user_id: str, *, versions: Sequence[str] = ()
    ) -> MembershipTemplate:
        """`GET /v1/make_join`, `make_knock`, `make_leave`. `versions` are the room versions spoken here."""
        answer = await self._client.get(
            destination,
            ("v1", f"make_{kind}", room_id, user_id),
            query=None if kind == "leave" else {"ver": versions},
            max_size=_SMALL,
            patience=Patience.IGNORE_BACKOFF,
        )
        reading = Reading(destination, answer)
        return MembershipTemplate(reading.text("room_version", "1"), reading.object("event"))

    async def send_join(
        self,
        destination: str,
        room_id: str,
        event_id: str,
        pdu: Mapping[str, Any],
        *,
        omit_members: bool = False,
    ) -> JoinAnswer:
        """`PUT /v2/send_join`, or v1 where the server knows no other."""
        reading = await self._send_membership(
            destination,
            ("send_join", room_id, event_id),
            pdu,
            query={"omit_members": "true"} if omit_members else None,
            timeout=_VERY_LONG,
            max_size=_ROOM,
        )
        omitted = reading.boolean("members_omitted", False)
        return JoinAnswer(
            state=reading.objects("state"),
            auth_chain=reading.objects("auth_chain"),
            event=reading.object("event", None),
            members_omitted=omitted,
            servers_in_room=reading.texts("servers_in_room") if omitted else None,
        )

    async def send_leave(self, destination: str, room_id: str, event_id: str, pdu: Mapping[str, Any]) -> None:
        """`PUT /v2/send_leave`, or v1 where the server knows no other."""
        await self._send_membership(destination, ("send_leave", room_id, event_id), pdu)

    async def send_knock(
        self, destination: str, room_id: str, event_id: str, pdu: Mapping[str, Any]
    ) -> Sequence[Mapping[str, Any]]:
        """`PUT /v1/send_knock`: the room's stripped state."""
        answer = await self._client.put(
            destination,
            ("v1", "send_knock", room_id, event_id),
            pdu,
            timeout=_LONG,
            max_size=_MIDDLE,
            patience=Patience.IGNORE_BACKOFF,
        )
        return Reading(destination, answer).objects("knock_room_state")

    async def invite(
        self,
        destination: str,
        room_id: str,
        event_id: str,
        pdu: Mapping[str, Any],
        *,
        room_version: str,
        invite_room_state: Sequence[Mapping[str, Any]] = (),
    ) -> Pdu:
        """`PUT /v2/invite`: the event with the other server's signature. v1 for servers that know no other."""
        path = ("invite", room_id, event_id)
        body = {"event": pdu, "room_version": room_version, "invite_room_state": list(invite_room_state)}
        try:
            answer = await self._client.put(
                destination, ("v2", *path), body, max_size=_SMALL, patience=Patience.IGNORE_BACKOFF
            )
        except RemoteError as error:
            if not _unknown_endpoint(error) or room_version not in {"1", "2"}:
                raise
            unsigned = {**pdu.get("unsigned", {}), "invite_room_state": list(invite_room_state)}
            answer = await self._client.put(
                destination,
                ("v1", *path),
                {**pdu, "unsigned": unsigned},
                max_size=_SMALL,
                patience=Patience.IGNORE_BACKOFF,
            )
            answer = _second(answer)
        return Reading(destination, answer).object("event")

    async def exchange_third_party_invite(
        self, destination: str, room_id: str, event: Mapping[str, Any]
    ) -> None:
        """`PUT /v1/exchange_third_party_invite`."""
        await self._client.put(
            destination,
            ("v1", "exchange_third_party_invite", room_id),
            event,
            max_size=_SMALL,
            patience=Patience.IGNORE_BACKOFF,
        )

    async def _send_membership(
        self,
        destination: str,
        path: Sequence[str],
        pdu: Mapping[str, Any],
        *,
        query: Mapping[str, str] | None = None,
        timeout: float = _LONG,
        max_size: int = _SMALL,
    ) -> Reading:
        try:
            answer = await self._client.put(
                destination,
                ("v2", *path),
                pdu,
                query=query,
                timeout=timeout,
                max_size=max_size,
                patience=Patience.IGNORE_BACKOFF,
            )
        except RemoteError as error:
            if not _unknown_endpoint(error):
                raise
            answer = await self._client.put(
                destination,
                ("v1", *path),
                pdu,
                timeout=timeout,
                max_size=max_size,
                patience=Patience.IGNORE_BACKOFF,
            )
            answer = _second(answer)
        return Reading(destination, answer)

    # Events

    async def event(self, destination: str, event_id: str, *, timeout: float = 10.0) -> Pdu:
        """`GET /v1/event`: the event, alone."""
        answer = await self._client.get(
            destination, ("v1", "event", event_id), timeout=timeout, max_size=_SMALL
        )
        reading = Reading(destination, answer)
        pdus = reading.objects("pdus")
        if len(pdus) != 1:
            raise reading.bad("`pdus` must hold one event")
        return pdus[0]

    async def state(self, destination: str, room_id: str, event_id: str) -> RoomState:
        """`GET /v1/state`: the state before an event, and its auth chain."""
        answer = await self._client.get(
            destination,
            ("v1", "state", room_id),
            query={"event_id": event_id},
            timeout=_VERY_LONG,
            max_size=_ROOM,
        )
        reading = Reading(destination, answer)
        return RoomState(reading.objects("pdus"), reading.objects("auth_chain"))

    async def state_ids(self, destination: str, room_id: str, event_id: str) -> StateIds:
        """`GET /v1/state_ids`."""
        answer = await self._client.get(
            destination,
            ("v1", "state_ids", room_id),
            query={"event_id": event_id},
            timeout=_LONG,
            max_size=_MIDDLE,
        )
        reading = Reading(destination, answer)
        return StateIds(reading.texts("pdu_ids"), reading.texts("auth_chain_ids"))

    async def event_auth(self, destination: str, room_id: str, event_id: str) -> Sequence[Pdu]:
        """`GET /v1/event_auth`: the auth chain of an event."""
        answer = await self._client.get(
            destination, ("v1", "event_auth", room_id, event_id), timeout=_LONG, max_size=_MIDDLE
        )
        return Reading(destination, answer).objects("auth_chain")

    async def backfill(
        self, destination: str, room_id: str, event_ids: Sequence[str], limit: int
    ) -> Sequence[Pdu]:
        """`GET /v1/backfill`: up to `limit` events from those given backwards."""
        answer = await self._client.get(
            destination,
            ("v1", "backfill", room_id),
            query={"v": event_ids, "limit": str(limit)},
            max_size=_MIDDLE,
        )
        return Reading(destination, answer).objects("pdus")

    async def get_missing_events(
        self,
        destination: str,
        room_id: str,
        *,
        earliest: Sequence[str],
        latest: Sequence[str],
        limit: int,
        min_depth: int,
        timeout: float = 20.0,
    ) -> Sequence[Pdu]:
        """`POST /v1/get_missing_events`: what lies between."""
        body = {
            "earliest_events": list(earliest),
            "latest_events": list(latest),
            "limit": limit,
            "min_depth": min_depth,
        }
        answer = await self._client.post(
            destination, ("v1", "get_missing_events", room_id), body, timeout=timeout, max_size=_MIDDLE
        )
        return Reading(destination, answer).objects("events")

    async def timestamp_to_event(
        self, destination: str, room_id: str, ts: int, direction: Literal["f", "b"]
    ) -> NearestEvent:
        """`GET /v1/timestamp_to_event`: the event nearest to a time, from it on forwards or backwards."""
        answer = await self._client.get(
            destination,
            ("v1", "timestamp_to_event", room_id),
            query={"ts": str(ts), "dir": direction},
            timeout=10.0,
            max_size=_SMALL,
        )
        reading = Reading(destination, answer)
        return NearestEvent(reading.text("event_id"), reading.integer("origin_server_ts"))

    async def send_transaction(
        self, destination: str, transaction_id: str, transaction: Mapping[str, Any] | bytes
    ) -> Mapping[str, Any]:
        """`PUT /v1/send`: event id → `{}` or `{"error": …}`. Bytes are canonical JSON already."""
        answer = await self._client.put(
            destination, ("v1", "send", transaction_id), transaction, timeout=60.0, max_size=_SMALL
        )
        return Reading(destination, answer).object("pdus", {})

    async def policy_sign(self, destination: str, pdu: Mapping[str, Any], *, timeout: float) -> str:
        """`POST /_matrix/policy/v1/sign`: the policy server's signature of an event, unchecked.

        Every event waits for it, so no pause after failures is heeded here: who asks sees to that.
        """
        answer = await self._client.post(
            destination,
            ("v1", "sign"),
            pdu,
            under=POLICY,
            repeatable=True,
            timeout=timeout,
            max_size=_SMALL,
            patience=Patience.IGNORE_BACKOFF,
        )
        signed = Reading(destination, Reading(destination, answer).object(destination))
        return signed.text(POLICY_KEY_ID)

    # Queries

    async def query_profile(
        self, destination: str, user_id: str, field: str | None = None
    ) -> Mapping[str, Any]:
        """`GET /v1/query/profile`: the whole profile, or one field of it."""
        query = {"user_id": user_id} if field is None else {"user_id": user_id, "field": field}
        answer = await self._client.get(
            destination, ("v1", "query", "profile"), query=query, timeout=10.0, max_size=_SMALL
        )
        return Reading(destination, answer).whole()

    async def openid_userinfo(self, destination: str, access_token: str) -> str:
        """`GET /v1/openid/userinfo`: the user an OpenID token stands for."""
        answer = await self._client.get(
            destination,
            ("v1", "openid", "userinfo"),
            query={"access_token": access_token},
            timeout=10.0,
            max_size=_SMALL,
        )
        return Reading(destination, answer).text("sub")

    async def query_directory(self, destination: str, room_alias: str) -> AliasAnswer:
        """`GET /v1/query/directory`: where an alias leads."""
        answer = await self._client.get(
            destination,
            ("v1", "query", "directory"),
            query={"room_alias": room_alias},
            timeout=10.0,
            max_size=_SMALL,
            patience=Patience.IGNORE_BACKOFF,
        )
        reading = Reading(destination, answer)
        return AliasAnswer(reading.text("room_id"), reading.texts("servers"))

    async def public_rooms(
        self,
        destination: str,
        *,
        limit: int | None = None,
        since: str | None = None,
        include_all_networks: bool = False,
        third_party_instance_id: str | None = None,
        search: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        """`GET /v1/publicRooms`, `POST` with a `search` (the filter): `chunk` is a list of objects."""
        wishes: dict[str, Any] = {}
        if limit is not None:
            wishes["limit"] = limit
        if since is not None:
            wishes["since"] = since
        if include_all_networks:
            wishes["include_all_networks"] = True
        if third_party_instance_id is not None:
            wishes["third_party_instance_id"] = third_party_instance_id
        path = ("v1", "publicRooms")
        if search is None:
            query = {
                name: str(value).lower() if type(value) is bool else str(value)
                for name, value in wishes.items()
            }
            answer = await self._client.get(
                destination, path, query=query, max_size=_MIDDLE, patience=Patience.IGNORE_BACKOFF
            )
        else:
            answer = await self._client.post(
                destination,
                path,
                {**wishes, "filter": dict(search)},
                max_size=_MIDDLE,
                patience=Patience.IGNORE_BACKOFF,
            )
        reading = Reading(destination, answer)
        reading.objects("chunk")
        return reading.whole()

    async def hierarchy(
        self, destination: str, room_id: str, *, suggested_only: bool = False
    ) -> Mapping[str, Any]:
        """`GET /v1/hierarchy`: `room`, `children` (objects), `inaccessible_children` (room ids)."""
        answer = await self._client.get(
            destination,
            ("v1", "hierarchy", room_id),
            query={"suggested_only": "true" if suggested_only else "false"},
            max_size=_MIDDLE,
        )
        reading = Reading(destination, answer)
        reading.object("room")
        return {
            **reading.whole(),
            "children": reading.objects("children"),
            "inaccessible_children": reading.texts("inaccessible_children"),
        }

    # Devices and keys

    async def user_devices(self, destination: str, user_id: str) -> DeviceListAnswer:
        """`GET /v1/user/devices`."""
        answer = await self._client.get(destination, ("v1", "user", "devices", user_id), max_size=_MIDDLE)
        reading = Reading(destination, answer)
        return DeviceListAnswer(
            user_id=reading.text("user_id"),
            stream_id=reading.integer("stream_id"),
            devices=reading.objects("devices"),
            master_key=reading.object("master_key", None),
            self_signing_key=reading.object("self_signing_key", None),
        )

    async def keys_query(
        self, destination: str, device_keys: Mapping[str, Sequence[str]], *, timeout: float = 10.0
    ) -> Mapping[str, Any]:
        """`POST /v1/user/keys/query`: `device_keys`, `master_keys`, `self_signing_keys`, objects all of them."""
        body = {"device_keys": {user: list(devices) for user, devices in device_keys.items()}}
        answer = await self._client.post(
            destination, ("v1", "user", "keys", "query"), body, timeout=timeout, max_size=_MIDDLE
        )
        reading = Reading(destination, answer)
        return {
            "device_keys": reading.object("device_keys"),
            "master_keys": reading.object("master_keys", {}),
            "self_signing_keys": reading.object("self_signing_keys", {}),
        }

    async def keys_claim(
        self, destination: str, one_time_keys: Mapping[str, Mapping[str, str]], *, timeout: float = 10.0
    ) -> Mapping[str, Any]:
        """`POST /v1/user/keys/claim`: user → device → key id → key."""
        body = {"one_time_keys": {user: dict(devices) for user, devices in one_time_keys.items()}}
        answer = await self._client.post(
            destination, ("v1", "user", "keys", "claim"), body, timeout=timeout, max_size=_MIDDLE
        )
        return Reading(destination, answer).object("one_time_keys")

    async def version(self, destination: str) -> Mapping[str, Any]:
        """`GET /v1/version`: `server`, with `name` and `version` where the other side tells them."""
        answer = await self._client.get(
            destination, ("v1", "version"), timeout=10.0, max_size=_SMALL, patience=Patience.IGNORE_BACKOFF
        )
        return Reading(destination, answer).object("server", {})


def _unknown_endpoint(error: RemoteError) -> bool:
    """Whether the server does not know the endpoint, rather than what it was asked for."""
    if error.status not in {400, 404, 405}:
        return False
    return error.errcode == "M_UNRECOGNIZED" or type(error.body) is not dict or "errcode" not in error.body


def _second(answer: Any) -> Any:
    """v1 answers `[200, {…}]`."""
    return answer[1] if type(answer) is list and len(answer) == 2 else answer
