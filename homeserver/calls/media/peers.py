# SPDX-License-Identifier: Apache-2.0
"""Peer connections as both the echo and the examination use them: which relay, which candidates, what was measured.

Owns what of a stranger's description and candidates is used at all: a call makes this machine send packets to addresses
that its caller names.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aiortc import (
    RTCConfiguration,
    RTCIceCandidate,
    RTCIceServer,
    RTCIceTransportPolicy,
    RTCPeerConnection,
    RTCRtpTransceiver,
)
from aiortc.codecs import h264, vpx
from aiortc.sdp import candidate_from_sdp

from homeserver.calls.media.messages import Received

MOST_SECTIONS = 6
"""Of a description: each may take ports."""
MOST_CANDIDATES = 60
"""That are tried for one call."""
LEAST_PORT = 1024
"""No client receives below, and what listens there (name servers, say) shall not be knocked at for strangers."""
MOST_BITS = 500_000
"""Of pictures sent, per second."""


class Unusable(Exception):
    """A description or a candidate that no call can be made of; the message says why."""


def bound_encoders() -> None:
    """Make every encoder of this process keep to `MOST_BITS`."""
    codecs: tuple[Any, ...] = (vpx, h264)  # constants of the modules, which their encoders look up
    for codec in codecs:
        codec.DEFAULT_BITRATE = codec.MAX_BITRATE = MOST_BITS
        codec.MIN_BITRATE = min(codec.MIN_BITRATE, MOST_BITS)


def connection(ice: Iterable[Mapping[str, Any]], *, relay_only: bool = False) -> RTCPeerConnection:
    """A peer connection that uses the first TURN and the first STUN server it can; none means none."""
    servers = [
        RTCIceServer(urls=uri, username=each["username"], credential=each["password"])
        for each in ice
        for uri in usable_uris(each["uris"])
    ]
    policy = RTCIceTransportPolicy.RELAY if relay_only else RTCIceTransportPolicy.ALL
    return RTCPeerConnection(RTCConfiguration(iceServers=servers, iceTransportPolicy=policy))


def usable_uris(uris: Sequence[str]) -> list[str]:
    """Those that aiortc can use, the best first: UDP before TCP before TLS. It takes the first of TURN and of STUN."""
    usable = [
        uri
        for uri in uris
        if uri.startswith(("turn:", "turns:", "stun:"))
        and "[" not in uri  # addresses of IPv6 are not understood
        and not (uri.startswith("turns:") and uri.endswith("transport=udp"))
    ]
    usable.sort(key=lambda uri: (uri.startswith("turns:"), uri.endswith("transport=tcp")))
    if usable and usable[0].startswith("turn:") and not usable[0].endswith("transport=tcp"):
        # A TURN server answers STUN, too, by which a machine behind a router learns its outer address.
        place = usable[0].partition(":")[2].partition("?")[0]
        usable.append(f"stun:{place}")
    return usable


def cleaned(sdp: str) -> str:
    """A stranger's description without the candidates that are not used. Raises Unusable."""
    lines = sdp.splitlines()
    if sum(line.startswith("m=") for line in lines) > MOST_SECTIONS:
        raise Unusable("it has too many parts")
    if not any(line.startswith(("m=audio", "m=video")) for line in lines):
        raise Unusable("it has neither sound nor pictures")
    kept: list[str] = []
    candidates = 0
    for line in lines:
        if line.startswith("a=candidate:"):
            candidates += 1
            if candidates > MOST_CANDIDATES or usable_candidate(line[len("a=") :]) is None:
                continue
        kept.append(line)
    return "\r\n".join(kept) + "\r\n"


def usable_candidate(text: str) -> RTCIceCandidate | None:
    """A candidate as browsers write it (`candidate:…`); None for one that is not tried."""
    try:
        candidate = candidate_from_sdp(text.removeprefix("candidate:"))
        address = ipaddress.ip_address(
            candidate.ip
        )  # names of the caller's own network (mDNS) say nothing here
    except (ValueError, IndexError, AssertionError):
        return None
    if candidate.protocol.lower() != "udp" or not LEAST_PORT <= candidate.port <= 65535:
        return None
    if address.is_multicast or address.is_unspecified or address == ipaddress.ip_address("255.255.255.255"):
        return None
    return candidate


def kinds_of(sdp: str) -> list[str]:
    """The kinds of the candidates in a description, each once."""
    found = (line.partition(" typ ")[2].partition(" ")[0] for line in sdp.splitlines() if " typ " in line)
    return list(dict.fromkeys(kind for kind in found if kind))


def used_path(peer: RTCPeerConnection) -> tuple[str, str] | None:
    """Kinds of the candidates that the media goes between, ours first; None while there is no path."""
    for transceiver in peer.getTransceivers():
        ice = transceiver.receiver.transport.transport
        # aiortc does not tell which pair of candidates was chosen; its ICE library knows.
        for pair in ice._connection._nominated.values():
            return pair.local_candidate.type, pair.remote_candidate.type
    return None


async def measured(transceiver: RTCRtpTransceiver, *, frames: int, silent: bool, size: str) -> Received:
    """What arrived by a transceiver."""
    codec = next((each for each in transceiver._codecs if each.name.lower() != "rtx"), None)
    packets = lost = 0
    jitter = 0.0
    for each in (await transceiver.receiver.getStats()).values():
        if each.type == "inbound-rtp" and each.packetsReceived > packets:
            packets, lost = each.packetsReceived, max(0, each.packetsLost)
            jitter = 1000 * each.jitter / codec.clockRate if codec is not None else 0.0
    return Received(
        kind=transceiver.kind,
        codec="" if codec is None else codec.name,
        packets=packets,
        lost=lost,
        jitter_ms=round(jitter, 1),
        frames=frames,
        silent=silent,
        size=size,
    )


async def arrived(peer: RTCPeerConnection) -> tuple[int, int]:
    """Packets and bytes that came in over all transports of a connection."""
    by_transport: dict[str, tuple[int, int]] = {}
    for transceiver in peer.getTransceivers():
        for each in (await transceiver.receiver.getStats()).values():
            if each.type == "transport":
                by_transport[each.id] = (each.packetsReceived, each.bytesReceived)
    return sum(each[0] for each in by_transport.values()), sum(each[1] for each in by_transport.values())
