# SPDX-License-Identifier: Apache-2.0
"""A conversation of two accounts over WebSocket, through the `websockets` library.

    python websocket_client.py http://127.0.0.1:8008 ALICES_TOKEN BOBS_TOKEN

Run by the Python of the clients' environment, like `nio_client.py`: prints one JSON object per line,
`{"step": NAME, …what the client saw…}`, which `test_websocket.py` compares with what the transport promises.
Rooms are made over plain HTTP; everything else goes through `GET /_matrix/client/ws/r0`.
"""

import json
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

PATIENCE = 120.0
PATH = "/_matrix/client/ws/r0"
ALIASES = (
    "/_matrix/client/unstable/stream",
    "/_matrix/client/r0/stream",
    "/_matrix/client/v3/stream",
)
Frame = dict[str, Any]


def saw(step: str, **what: object) -> None:
    """Print one line of the record."""
    sys.stdout.write(json.dumps({"step": step, **what}) + "\n")
    sys.stdout.flush()


def post(base_url: str, token: str, path: str, body: object) -> Any:
    """One plain request that must succeed."""
    request = urllib.request.Request(
        base_url + "/_matrix/client/v3" + path,
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        return json.load(response)


class Peer:
    """One connection: requests answered by id, and the updates that arrived in between."""

    def __init__(
        self,
        base_url: str,
        *,
        path: str = PATH,
        headers: dict[str, str] | None = None,
        protocols: tuple[str, ...] = ("m.json",),
        **query: str,
    ) -> None:
        url = base_url.replace("http", "ws", 1) + path + (f"?{urlencode(query)}" if query else "")
        self.socket = connect(
            url,
            additional_headers=headers,
            subprotocols=[Subprotocol(name) for name in protocols] or None,
            open_timeout=PATIENCE,
            ping_timeout=PATIENCE,
            proxy=None,
        )
        self.updates: list[Frame] = []
        self._responses: list[Frame] = []

    def next_frame(self) -> Frame:
        """The next frame, filed as an update (it has `next_batch` and no `id`) or a response."""
        frame: Frame = json.loads(self.socket.recv(timeout=PATIENCE))
        (self.updates if "next_batch" in frame and "id" not in frame else self._responses).append(frame)
        return frame

    def response(self, request_id: str | None) -> Frame:
        """The response with this id."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for frame in self._responses:
                if frame.get("id") == request_id:
                    self._responses.remove(frame)
                    return frame
            self.next_frame()
        raise AssertionError(f"no response to {request_id}")

    def call(self, request_id: str, method: str, /, **params: object) -> Frame:
        """Send a request and wait for its response."""
        self.socket.send(json.dumps({"id": request_id, "method": method, "params": params}))
        return self.response(request_id)

    def raw(self, text: str, request_id: str | None = None) -> Frame:
        """Send any text and wait for the response with the id it should get."""
        self.socket.send(text)
        return self.response(request_id)

    def until(self, what: str, look: Callable[["Peer"], Any]) -> Any:
        """Read frames until `look(self)` is truthy, and return that."""
        deadline = time.monotonic() + PATIENCE
        while not (found := look(self)):
            if time.monotonic() > deadline:
                raise AssertionError(f"waited in vain for {what}")
            self.next_frame()
        return found

    def listed(self, room_id: str, section: str, kind: str) -> list[Frame]:
        """All events of a type in a section (`timeline`, `ephemeral`, …) of a joined room, of all updates."""
        return [
            event
            for update in self.updates
            for event in update.get("rooms", {})
            .get("join", {})
            .get(room_id, {})
            .get(section, {})
            .get("events", [])
            if event["type"] == kind
        ]

    @property
    def since(self) -> str:
        """Where the newest update ends."""
        return str(self.updates[-1]["next_batch"])


def refusal(base_url: str, **arguments: Any) -> dict[str, object]:
    """What a connection that must not open is answered with."""
    try:
        Peer(base_url, **arguments).socket.close()
    except InvalidStatus as error:
        answer = error.response
        kind = answer.headers.get("Content-Type", "")
        body = json.loads(answer.body or b"{}") if "json" in kind else {}
        return {"status": answer.status_code, "errcode": body.get("errcode")}
    return {"status": 101}


def errcode(frame: Frame) -> str:
    """The error code of a response, or its result."""
    return str(frame["error"]["errcode"] if "error" in frame else frame["result"])


def doors(base_url: str, token: str) -> None:
    """Who is let in, at which paths, and with which subprotocol."""
    saw(
        "refused",
        unknown=refusal(base_url, access_token="nobody"),
        missing=refusal(base_url),
        protocol=refusal(base_url, access_token=token, protocols=("wamp.2.json",))["status"],
    )
    opened = {}
    for path in ALIASES:
        peer = Peer(base_url, path=path, access_token=token)
        opened[path] = "next_batch" in peer.next_frame()
        peer.socket.close()
    saw("aliases", opened=opened)


def talk(alice: Peer, bob: Peer, room_id: str) -> None:
    """Messages, state, typing, receipts and pings, each seen by the other."""
    content = {"msgtype": "m.text", "body": "first"}
    message = {"room_id": room_id, "event_type": "m.room.message", "content": content}
    sent = alice.call("t1", "send", **message)
    again = alice.call("t1", "send", **message)
    old = alice.raw(json.dumps({"id": "t2", "method": "send", "param": message}), "t2")
    event_id = str(sent["result"]["event_id"])
    bob.until("the messages", lambda peer: len(peer.listed(room_id, "timeline", "m.room.message")) >= 2)
    seen = bob.listed(room_id, "timeline", "m.room.message")
    saw(
        "sent",
        repeated_is_same=sent == again,
        received=[event["content"]["body"] for event in seen],
        same_ids=[event["event_id"] for event in seen] == [event_id, old["result"]["event_id"]],
        ping=alice.call("p1", "ping")["result"],
    )
    topic = {
        "room_id": room_id,
        "event_type": "m.room.topic",
        "state_key": "",
        "content": {"topic": "Penates"},
    }
    made = alice.call("s1", "state", **topic)
    topics = bob.until("the topic", lambda peer: peer.listed(room_id, "timeline", "m.room.topic"))
    saw("state", same_id=topics[-1]["event_id"] == made["result"]["event_id"], topic=topics[-1]["content"])
    started = bob.call("y1", "typing", room_id=room_id, typing=True, timeout=60_000)
    notices = alice.until("typing", lambda peer: peer.listed(room_id, "ephemeral", "m.typing"))
    marked = bob.call("m1", "read_markers", room_id=room_id, **{"m.read": event_id, "m.fully_read": event_id})
    receipts = alice.until("the receipt", lambda peer: peer.listed(room_id, "ephemeral", "m.receipt"))
    saw(
        "signalled",
        results=[
            started["result"],
            marked["result"],
            bob.call("o1", "presence", presence="online")["result"],
        ],
        typing=notices[0]["content"]["user_ids"],
        readers=list(receipts[-1]["content"][event_id]["m.read"]),
        ack=bob.call("a1", "ack", since=bob.since)["result"],
    )


def mistakes(alice: Peer) -> None:
    """Frames the server must answer with an error, on a connection that lives on."""
    nowhere = {"room_id": "!nowhere:localhost", "event_type": "m.room.message", "content": {}}
    saw(
        "mistakes",
        not_json=errcode(alice.raw("{")),
        not_object=errcode(alice.raw("[]")),
        no_id=errcode(alice.raw('{"method": "ping"}')),
        unknown_method=errcode(alice.call("e1", "fly")),
        missing_field=errcode(alice.call("e2", "send", event_type="m.room.message", content={})),
        not_in_room=errcode(alice.call("e3", "send", **nowhere)),
        alive=alice.call("e4", "ping")["result"],
    )


def come_back(base_url: str, alice: Peer, bob: Peer, tokens: list[str], room_id: str) -> None:
    """Bob misses a message and returns with his `since`; Alice's token ends while she is connected."""
    since = bob.since
    bob.socket.close()
    content = {"msgtype": "m.text", "body": "missed"}
    alice.call("t3", "send", room_id=room_id, event_type="m.room.message", content=content)
    again = Peer(base_url, since=since, access_token=tokens[1])
    again.until("the missed message", lambda peer: peer.listed(room_id, "timeline", "m.room.message"))
    bodies = [event["content"]["body"] for event in again.listed(room_id, "timeline", "m.room.message")]
    again.socket.close()
    post(base_url, tokens[0], "/logout", {})
    frames: list[Frame] = []
    try:
        while True:
            frames.append(alice.next_frame())
    except ConnectionClosed as closed:
        code = closed.rcvd.code if closed.rcvd else None
    saw("came back", bodies=bodies)
    saw("token ended", errcode=errcode(frames[-1]) if frames else None, code=code)


def conversation(base_url: str, *tokens: str) -> None:
    """The whole scenario."""
    doors(base_url, tokens[0])
    room_id = str(
        post(base_url, tokens[0], "/createRoom", {"preset": "public_chat", "name": "Ship"})["room_id"]
    )
    alice = Peer(base_url, access_token=tokens[0])
    first = alice.next_frame()
    bob = Peer(base_url, protocols=(), headers={"Authorization": f"Bearer {tokens[1]}"})
    bob.next_frame()
    saw(
        "opened",
        subprotocols=[alice.socket.subprotocol, bob.socket.subprotocol],
        id_in_update="id" in first,
        rooms=list(first["rooms"]["join"]) == [room_id],
    )
    post(base_url, tokens[1], f"/join/{quote(room_id)}", {})
    bob.until("the joined room", lambda peer: peer.listed(room_id, "timeline", "m.room.member"))
    talk(alice, bob, room_id)
    mistakes(alice)
    come_back(base_url, alice, bob, list(tokens), room_id)


if __name__ == "__main__":
    conversation(*sys.argv[1:4])
