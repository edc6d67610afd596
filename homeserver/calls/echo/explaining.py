# SPDX-License-Identifier: Apache-2.0
"""A call's report in sentences for the person who called. Pure.

Owns which of the likely reasons is the likely one. A sentence says what happened and, where something is wrong, what
the reader can do about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from homeserver.calls.media.messages import CallReport, Received

LOSSY = 3.0
"""Per cent of packets: from here on it is heard."""
JITTERY = 30.0
"""Milliseconds."""
EARLY = 3.0
"""Seconds: who hangs up within has not given it a chance."""

_PLACES = {
    "host": "directly (host)",
    "srflx": "through a router (reflexive)",
    "prflx": "through a router (reflexive)",
    "relay": "through the TURN server (relay)",
}
_MEDIA = {"audio": "Sound", "video": "Picture"}


def explain(report: CallReport, *, has_relay: bool) -> str:
    """The text of the message. `has_relay`: a TURN server is configured."""
    return "\n".join(_lines(report, has_relay))


def _lines(report: CallReport, has_relay: bool) -> Iterator[str]:
    if not report.connected:
        yield _unconnected(report, has_relay)
        if report.offered or report.heard_of:
            yield (
                f"Addresses offered: by your app {_kinds(report.heard_of)}; "
                f"by the server {_kinds(report.offered)}."
            )
        return
    yield (
        f"The call was connected after {report.connected_after_ms / 1000:.1f} s: "
        f"your app {_PLACES.get(report.remote, report.remote)}, "
        f"the server {_PLACES.get(report.local, report.local)}."
    )
    yield from map(_arrival, report.received)
    yield from _troubles(report)


def _arrival(received: Received) -> str:
    if not received.packets:
        return f"{_MEDIA[received.kind]}: nothing arrived."
    size = f", {received.size}" if received.size else ""
    return (
        f"{_MEDIA[received.kind]} ({received.codec}{size}): {received.packets} packets arrived, "
        f"{received.lost} were lost ({_loss(received):.1f} %), jitter {received.jitter_ms:.0f} ms."
    )


def _troubles(report: CallReport) -> Iterator[str]:
    """What is wrong with a call that was connected; one sentence if nothing is."""
    found = [*_endings(report), *(trouble for each in report.received for trouble in _trouble_of(each))]
    if not report.received:
        found.append(
            "Your app sent neither sound nor picture: allow it to use the microphone, then call again."
        )
    yield from found or [
        "Everything arrived well: if other calls fail, the other side's network is the cause."
    ]


def _endings(report: CallReport) -> Iterator[str]:
    match report.why:
        case "vanished":
            yield (
                "Then nothing more came from you, and you did not hang up: your network was lost or changed, or the "
                "app was closed."
            )
        case "too_much":
            yield "It was ended because your app sent more data than this test carries."
        case "stopped":
            yield "It was ended because the server was stopped or started again; please call once more."
        case "unusable":
            yield "It was ended because your app changed the call in a way that is not understood here."


def _trouble_of(received: Received) -> Iterator[str]:
    sound = received.kind == "audio"
    if not received.packets:
        device = "microphone" if sound else "camera"
        yield (
            f"The way is open, but your app sent no {'sound' if sound else 'picture'} over it: "
            f"check that it may use the {device}, and that no other program has it."
        )
        return
    if received.silent:
        yield "The sound was silence: your microphone is muted, or the wrong one is chosen."
    if not received.frames:
        yield f"None of the {'sound' if sound else 'pictures'} could be decoded."
    if _loss(received) >= LOSSY:
        yield (
            f"That many lost packets make {'sound' if sound else 'pictures'} break up: "
            "your connection is weak or full; try it nearer to the router, or by cable."
        )
    elif received.jitter_ms >= JITTERY:
        yield "Packets came unevenly, which is heard as stutter: something else may be filling your connection."


def _unconnected(report: CallReport, has_relay: bool) -> str:
    match report.why:
        case "caller" if report.seconds < EARLY:
            return "You hung up before the call could be connected; give it some ten seconds."
        case "stopped":
            return "The call ended because the server was stopped or started again; please call once more."
        case "unusable":
            return "Your app's offer of a call is not understood here: is it up to date?"
        case "no_handshake":
            return (
                "A way was found between your app and the server, but no encrypted connection over it came about: "
                "something on the way drops larger packets, as some VPNs and firewalls do. Try it without a VPN."
            )
    return f"No way was found between your app and the server. {_why_no_path(report, has_relay)}"


def _why_no_path(report: CallReport, has_relay: bool) -> str:
    if not report.heard_of:
        return (
            "Your app told of no address it could be reached at: a browser extension, a VPN or a privacy setting "
            "may keep it from using the network for calls (WebRTC)."
        )
    if not has_relay:
        return (
            "This server has no TURN server, which calls through most routers and firewalls need: "
            "its administrator should set one up (turn, in the configuration)."
        )
    if report.relay_failed:
        return "The server's own TURN server gave it no address: its administrator should run `lares doctor calls`."
    if "relay" not in report.heard_of:
        return (
            "Your app got no address from the TURN server: your network probably blocks it. Try another network, "
            "and tell the administrator, who can offer TURN over TCP or TLS on port 443."
        )
    return (
        "Both sides had an address of the TURN server, and still nothing passed: its administrator should run "
        "`lares doctor calls` and open the UDP ports of its relays (min-port to max-port) in the firewall."
    )


def _loss(received: Received) -> float:
    expected = received.packets + received.lost
    return 100 * received.lost / expected if expected else 0.0


def _kinds(kinds: Iterable[str]) -> str:
    words = {"host": "host", "srflx": "reflexive", "prflx": "reflexive", "relay": "relay"}
    names = dict.fromkeys(words.get(kind, "other") for kind in kinds)
    return ", ".join(names) or "none"
