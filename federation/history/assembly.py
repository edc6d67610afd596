# SPDX-License-Identifier: Apache-2.0
"""Everything of this package put together, once per process."""

from __future__ import annotations

from typing import Any

from federation.client.availability import Availability
from federation.client.calls import FederationCalls
from federation.history.backfilling import Backfiller
from federation.history.candidates import Candidates
from federation.history.placing import HistoryIntake, HistoryPlacer
from federation.history.remote_history import RemoteHistory, WholeRooms
from federation.inbound.missing import EventFetcher
from federation.inbound.reading import PduReader
from storage.database import Database
from storage.gaps import GapStore
from storage.inbound_pdus import InboundPduStore


def build_remote_history(
    reactor: Any,
    *,
    database: Database,
    calls: FederationCalls,
    reader: PduReader,
    fetcher: EventFetcher,
    intake: HistoryIntake,
    availability: Availability,
    whole: WholeRooms,
    server_name: str,
) -> RemoteHistory:
    """What the reading services are given as `missing`."""
    candidates = Candidates(availability=availability, server_name=server_name)
    placer = HistoryPlacer(fetcher=fetcher, intake=intake)
    return RemoteHistory(
        reactor,
        calls=calls,
        backfiller=Backfiller(
            calls=calls,
            reader=reader,
            placer=placer,
            known=InboundPduStore(database),
            candidates=candidates,
        ),
        fetcher=fetcher,
        placer=placer,
        candidates=candidates,
        gaps=GapStore(database),
        whole=whole,
        server_name=server_name,
    )
