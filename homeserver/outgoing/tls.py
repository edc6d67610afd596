# SPDX-License-Identifier: Apache-2.0
"""How the other side proves who it is.

Owns the TLS settings of outgoing connections, the check of certificates, and the sessions kept for resumption. The name
a certificate must prove is independent of the address connected to; an address is proven by an IP entry of the
certificate. One context serves all destinations, since building one parses every authority of the system.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address

from homeserver.outgoing.errors import CertificateRefused, OutgoingError, TlsFailed
from homeserver.outgoing.targets import is_address

MAX_SESSIONS: Final = 2_000
# OpenSSL would resume a session for days; whether a certificate is still good shall be looked at once in a while.
SESSION_SECONDS: Final = 3600

_REASONS: Final = {
    9: "it is not valid yet",
    10: "it has expired",
    18: "it is self-signed",
    19: "it comes from an authority that is not trusted here",
    20: "it comes from an authority that is not trusted here, or a certificate in between is not sent along",
    21: "it comes from an authority that is not trusted here, or a certificate in between is not sent along",
    23: "it was revoked",
}


class TlsPolicy:
    """What a certificate must be, and the sessions agreed upon so far.

    `ca_file`: authorities to trust as PEM, None for those of the system. Raises OpenSSL.SSL.Error if it cannot be read.
    """

    def __init__(self, *, verify: bool = True, ca_file: Path | None = None) -> None:
        self.verify = verify
        self._sessions: OrderedDict[Hashable, tuple[float, SSL.Session]] = OrderedDict()
        # Beside the connections, since Twisted claims their one place for data of the application.
        self._under_way: WeakKeyDictionary[SSL.Connection, Handshake] = WeakKeyDictionary()
        self._ca_file = ca_file
        # The system's authorities are megabytes, and nobody may ever be asked anything. A file that was named is read
        # at once, so that a mistake in it is found at the start.
        self._context = None if ca_file is None else self._new_context()

    def _new_context(self) -> SSL.Context:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_alpn_protos([b"http/1.1"])
        context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
        if not self.verify:
            return context
        if self._ca_file is None:
            context.set_default_verify_paths()
        else:
            context.load_verify_locations(str(self._ca_file))
        context.set_verify(SSL.VERIFY_PEER, self._judged)
        return context

    def connection(self, handshake: Handshake, now: float) -> SSL.Connection:
        """A TLS connection over memory, about to shake hands."""
        if self._context is None:
            self._context = self._new_context()
        connection = SSL.Connection(self._context, None)
        self._under_way[connection] = handshake
        if not is_address(handshake.tls_name):
            connection.set_tlsext_host_name(handshake.tls_name.encode("ascii"))
        known = self._sessions.get(handshake.key)
        if known is not None and known[0] > now:
            connection.set_session(known[1])
        return connection

    def check(self, connection: SSL.Connection, handshake: Handshake) -> None:
        """After the handshake, before anything is sent: whether the certificate is for the name.

        Raises CertificateRefused. The chain was checked by the handshake itself.
        """
        if not self.verify:
            return
        verify = verify_ip_address if is_address(handshake.tls_name) else verify_hostname
        try:
            verify(connection, handshake.tls_name)
        except (VerificationError, CertificateError) as error:
            raise CertificateRefused(f"the certificate is not for {handshake.tls_name}") from error
        except (
            Exception
        ) as error:  # a certificate can be malformed in more ways than its parsers have names for
            raise CertificateRefused(f"the certificate of {handshake.tls_name} cannot be read") from error

    def remember(self, connection: SSL.Connection, handshake: Handshake, now: float) -> None:
        """Keep the session of a connection that was good, for the next one to the same destination."""
        session = connection.get_session()
        if session is None:
            return
        known = self._sessions.pop(handshake.key, None)
        # A resumed session inherits the end of the first, when the chain had been looked at.
        end = known[0] if known is not None and known[0] > now else now + SESSION_SECONDS
        self._sessions[handshake.key] = (end, session)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)

    def _judged(
        self, connection: SSL.Connection, _certificate: X509, error: int, _depth: int, ok: int
    ) -> bool:
        """Called by OpenSSL for each certificate of the chain; its own verdict stands, and is noted."""
        handshake = self._under_way.get(connection)
        if not ok and handshake is not None and handshake.complaint is None:
            handshake.complaint = _REASONS.get(error, f"OpenSSL error {error}")
        return bool(ok)

    def forget(self, handshake: Handshake) -> None:
        """A handshake failed: the next one starts from nothing."""
        self._sessions.pop(handshake.key, None)


class Handshake:
    """One handshake: whom it is with, and what OpenSSL found wrong with the chain."""

    __slots__ = ("complaint", "key", "tls_name")

    def __init__(self, tls_name: str, key: Hashable) -> None:
        self.tls_name = tls_name
        self.key = key
        self.complaint: str | None = None

    def failure(self, reason: BaseException | None) -> OutgoingError:
        """Why the handshake ended early."""
        if self.complaint is not None:
            return CertificateRefused(f"the certificate of {self.tls_name} is refused: {self.complaint}")
        if isinstance(reason, SSL.Error):
            details = reason.args[0] if reason.args and isinstance(reason.args[0], list) else []
            words = ", ".join(str(each[-1]) for each in details) or "no reason given"
            return TlsFailed(f"the TLS handshake with {self.tls_name} failed: {words}")
        return TlsFailed(f"the connection ended during the TLS handshake with {self.tls_name}")
