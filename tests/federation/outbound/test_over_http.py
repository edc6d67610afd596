# SPDX-License-Identifier: Apache-2.0
"""Through the real client, to a server over real HTTP."""

from __future__ import annotations

from federation.client.calls import FederationCalls
from federation.client.client import FederationClient
from federation.client.http_wire import HttpWire
from federation.client.metrics import ClientMetrics
from federation.destinations import Availability
from federation.outbound import OutgoingEdu
from homeserver.protocol.signing import SigningKey
from storage.database import Database
from tests.federation.client.test_http_wire import Places, outgoing, plain
from tests.federation.outbound.outbound_fixture import Process
from tests.federation.servers import RemoteServer
from tests.reactor import reactor

KEY = SigningKey.from_seed("ed25519:test", bytes(32))
HYDRA = "hydra.test"
SEND = "/_matrix/federation/v1/send/"


async def test_a_server_over_http_that_goes_away_and_comes_back(database: Database) -> None:
    """What it gets is signed as it is sent, the events are whole, and the failure is known to every other request."""
    hydra, places = RemoteServer(HYDRA), Places()
    hydra.on("PUT", SEND + "{id}", lambda _request: {"pdus": {}})

    async with outgoing() as http:

        def calls(availability: Availability) -> FederationCalls:
            return FederationCalls(
                FederationClient(
                    server_name="localhost",
                    signing_key=KEY,
                    wire=HttpWire(reactor, discovery=places, http=http),
                    availability=availability,
                    metrics=ClientMetrics(),
                )
            )

        process = await Process.open(database, through=calls)
        async with hydra.listening() as port:
            places.places[HYDRA] = [plain(port)]
            room = await process.engine.new_room()
            await process.engine.join(room.room_id, f"@u:{HYDRA}")
            (first,) = await process.say(room, "first")
            await process.outbound.outbox.keep([OutgoingEdu(HYDRA, "m.test", {"ä": 1})])
            await process.settle()
        (second,) = await process.say(room, "second")
        await process.settle()
        assert not process.outbound.availability.may_try(HYDRA)
        async with hydra.listening() as port:
            places.places[HYDRA] = [plain(port)]
            await process.pass_time(75)
            await process.settle()
        await process.stop()

    transactions = hydra.requests("PUT", SEND)
    for each in transactions:
        each.check_signature(HYDRA, {KEY.key_id: KEY.verify_key})
        assert each.json["origin"] == "localhost"
    stored = await process.engine.events.by_ids([first, second])
    sent = [pdu for each in transactions for pdu in each.json["pdus"]]
    assert [pdu["content"].get("body") for pdu in sent] == ["first", "second"]
    assert sum(each.raw.decode().count(stored[first].pdu) for each in transactions) == 1
    assert [edu for each in transactions for edu in each.json.get("edus", [])] == [
        {"edu_type": "m.test", "content": {"ä": 1}}
    ]
