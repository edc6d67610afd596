# SPDX-License-Identifier: Apache-2.0
"""How a request of ours to another machine can fail.

Owns the names of the failures, which are also the outcomes the metrics count. Does not own what a caller makes of them.

::

    OutgoingError
     ├─ BadUrl                 the URL or the request itself cannot be sent
     ├─ NameNotFound           the host name has no address
     ├─ AddressDenied          every address of it is one this server may not reach
     ├─ Overloaded             too many requests of ours are waiting already
     ├─ ConnectFailed          nothing accepts connections there: nothing was sent
     │   └─ ConnectTimedOut    the same, by saying nothing; a TimedOut as well
     ├─ TlsFailed              no encrypted connection came about
     │   └─ CertificateRefused the other side did not prove its name
     ├─ TimedOut               too slow, as a whole or between two bytes
     ├─ ConnectionBroken       the connection ended before the answer did
     ├─ TooLarge               more came, or was announced, than was asked for
     ├─ BadResponse            not HTTP, or more of it than belongs into a head
     └─ BadRedirect            too many, in a circle, or to where none may lead
"""

from __future__ import annotations

from typing import ClassVar


class OutgoingError(Exception):
    """Base of all. The message is a sentence for an administrator's log."""

    outcome: ClassVar[str] = "error"


class BadUrl(OutgoingError):
    """The URL, a header or the method cannot be sent."""

    outcome = "bad_url"


class NameNotFound(OutgoingError):
    """The host name has no address."""

    outcome = "name"


class AddressDenied(OutgoingError):
    """Every address of the host is denied by `federation.deny_ip_ranges`."""

    outcome = "denied"


class Overloaded(OutgoingError):
    """Too many requests are waiting for a connection, or too many names for an answer."""

    outcome = "overloaded"


class ConnectFailed(OutgoingError):
    """No connection could be made."""

    outcome = "connect"


class TlsFailed(OutgoingError):
    """The TLS handshake failed."""

    outcome = "tls"


class CertificateRefused(TlsFailed):
    """The certificate does not prove the name: wrong name, expired, or of an authority nobody trusts."""

    outcome = "certificate"


class TimedOut(OutgoingError):
    """The time was up, or nothing moved for too long."""

    outcome = "timeout"


class ConnectTimedOut(ConnectFailed, TimedOut):
    """Making the connection took too long. Nothing was sent, so another place may be tried."""

    outcome = "timeout"


class ConnectionBroken(OutgoingError):
    """The connection ended before the answer was complete. `answered`: whether any of it had come."""

    outcome = "broken"

    def __init__(self, message: str, *, answered: bool) -> None:
        super().__init__(message)
        self.answered = answered


class TooLarge(OutgoingError):
    """The answer is larger than asked for."""

    outcome = "too_large"


class BadResponse(OutgoingError):
    """What came is not an HTTP response."""

    outcome = "bad_response"


class BadRedirect(OutgoingError):
    """The redirects do not lead to an answer."""

    outcome = "redirect"
