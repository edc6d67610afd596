# SPDX-License-Identifier: Apache-2.0
"""A call to the echo account of the running server, made as a client makes one: over HTTP, with media of its own.

Owns the calling side of it. As whom it calls is given with the token; the chat it makes is left and forgotten.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

import orjson

from homeserver.calls.doctor.asking import MediaAsker
from homeserver.calls.echo import signalling
from homeserver.calls.echo.calls import REPORT
from homeserver.calls.media.messages import CallReport
from homeserver.observability.findings import Finding, note, ok, problem
from homeserver.outgoing import AddressPolicy, Caps, OutgoingClient, OutgoingError

_CAPS: Final = Caps(max_size=8 << 20, timeout=40.0)
_WAIT: Final = 30.0
"""Seconds until the echo has joined, answered, or told what arrived."""


class CallFailed(Exception):
    """The call could not be made; the finding says why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.text)
        self.finding = finding


class EchoCaller:
    """Makes one call."""

    def __init__(
        self, *, http: OutgoingClient, base_url: str, token: str, echo: str, asker: MediaAsker
    ) -> None:
        self._http = http
        self._base = base_url.rstrip("/")
        self._token = token
        self._echo = echo
        self._asker = asker
        self._policy = AddressPolicy()
        self._since = ""
        self._transactions = itertools.count(1)
        self._events: list[Mapping[str, Any]] = []

    async def examine(self) -> list[Finding]:
        """What became of the call."""
        try:
            return await self._examine()
        except CallFailed as failed:
            return [failed.finding]
        except OutgoingError as error:
            return [
                problem(
                    f"The running server is not reached at {self._base}: {error}.",
                    "Start it (lares serve) with this configuration; the examination calls its echo account.",
                )
            ]

    async def _examine(self) -> list[Finding]:
        self._since = (await self._call("GET", "sync"))["next_batch"]
        wishes = {"preset": "trusted_private_chat", "is_direct": True, "invite": [self._echo]}
        room_id = str((await self._call("POST", "createRoom", wishes))["room_id"])
        try:
            return await self._in_room(room_id)
        finally:
            await self._call("POST", f"rooms/{quote(room_id)}/leave", {})
            await self._call("POST", f"rooms/{quote(room_id)}/forget", {})

    async def _in_room(self, room_id: str) -> list[Finding]:
        await self._event(
            room_id,
            "m.room.member",
            "did not join a chat with it",
            lambda content: content.get("membership") == "join",
        )
        peer, call_id = self._asker.new_id(), secrets.token_hex(8)
        begun = time.monotonic()
        offer = await self._asker.ask("offer", peer, ice=await self._relays(), relay_only=False)
        head = signalling.head(call_id, "1", secrets.token_hex(4))
        invite = {"lifetime": 60_000, "offer": {"type": "offer", "sdp": offer["sdp"]}}
        await self._send(room_id, signalling.INVITE, head | invite)
        answer = await self._event(room_id, signalling.ANSWER, "did not answer a call")
        answered = time.monotonic() - begun
        select = {"selected_party_id": answer.get("party_id")}
        await self._send(room_id, signalling.SELECT_ANSWER, head | select)
        heard = CallReport.parse(await self._asker.ask("accept", peer, sdp=answer["answer"]["sdp"]))
        await self._send(room_id, signalling.HANGUP, head | {"reason": "user_hangup"})
        told = await self._event(room_id, "m.room.message", "did not tell what arrived")
        return list(judged(heard, told, answered))

    async def _relays(self) -> list[dict[str, Any]]:
        login = await self._call("GET", "voip/turnServer", refused=(403, 404))
        if "uris" not in login:
            return []
        return [{name: login[name] for name in ("uris", "username", "password")}]

    async def _event(
        self, room_id: str, event_type: str, complaint: str, holds: Any = bool
    ) -> dict[str, Any]:
        """The content of the next such event of the echo account."""
        end = time.monotonic() + _WAIT
        while True:
            while self._events:
                event = self._events.pop(0)
                content = event["content"]
                if (event["sender"], event["type"]) == (self._echo, event_type) and holds(content):
                    return dict(content)
            left = end - time.monotonic()
            if left <= 0:
                raise CallFailed(
                    problem(
                        f"The echo account {self._echo} {complaint} within {_WAIT:.0f} seconds.",
                        "Restart the server if calls.echo_user was set after its start; its log says what else is "
                        "wrong.",
                    )
                )
            query = urlencode({"since": self._since, "timeout": int(1000 * left)})
            answer = await self._call("GET", f"sync?{query}")
            self._since = answer["next_batch"]
            room = answer.get("rooms", {}).get("join", {}).get(room_id, {})
            self._events += room.get("timeline", {}).get("events", ())

    async def _send(self, room_id: str, event_type: str, content: Mapping[str, Any]) -> None:
        path = f"rooms/{quote(room_id)}/send/{event_type}/{next(self._transactions)}"
        await self._call("PUT", path, content)

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, refused: tuple[int, ...] = ()
    ) -> dict[str, Any]:
        answer = await self._http.fetch(
            f"{self._base}/_matrix/client/v3/{path}",
            method=method,
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
            body=None if body is None else orjson.dumps(body),
            caps=_CAPS,
            purpose="doctor",
            policy=self._policy,
        )
        try:
            found = orjson.loads(answer.body)
        except ValueError:
            found = None
        if not isinstance(found, dict) or (answer.status != 200 and answer.status not in refused):
            said = found.get("error") if isinstance(found, dict) else "no Matrix server"
            raise CallFailed(
                problem(
                    f"The running server refused a part of the call: {answer.status}, {said}.",
                    f"Is what answers at {self._base} this server, and of this version?",
                )
            )
        return found


def judged(heard: CallReport, told: Mapping[str, Any], answered: float) -> list[Finding]:
    """Findings of what came back, and of what the echo account says that it got."""
    report, text = told.get(REPORT), str(told.get("body", ""))
    if not heard.connected or not isinstance(report, Mapping):
        return [
            problem("The echo account answered, and no sound or picture passed.", text.replace("\n", " "))
        ]
    got = {each["kind"]: each["packets"] for each in report.get("received", ())}
    back = {each.kind: each.packets for each in heard.received}
    if not all(got.get(kind) and back.get(kind) for kind in ("audio", "video")):
        return [
            problem(
                f"The echo account answered, but not everything passed: it got {_counts(got)}, we got {_counts(back)}.",
                text.replace("\n", " "),
            )
        ]
    return [
        ok(f"It answered within {answered:.1f} s; it got {_counts(got)}, and sent back {_counts(back)}."),
        note(f"This machine's side: {heard.local or 'host'}; the server's side: {heard.remote or 'host'}."),
    ]


def _counts(packets: Mapping[str, int]) -> str:
    return f"{packets.get('audio', 0)} packets of sound and {packets.get('video', 0)} of pictures"
