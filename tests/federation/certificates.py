# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests: an authority of their own, and leaf certificates for DNS names and IP addresses.

    authority = CertificateAuthority(tmp_path)
    leaf = authority.issue("127.0.0.1", "localhost")       # PEM files: leaf.certificate, leaf.private_key
    config = {"federation": {"ca_file": str(authority.ca_file), ...}}

Names that read as IP addresses become IP SANs, all others DNS SANs. Nothing here is fit for anything but tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import count
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate and its private key, both in PEM files as a listener's `tls` section names them."""

    certificate: Path
    private_key: Path


class CertificateAuthority:
    """A certificate authority that lives in a folder. `ca_file` is what `federation.ca_file` should be."""

    def __init__(self, folder: Path, name: str = "Authority of a test") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._serial = count(1)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = _named(name)
        self.ca_file = folder / "authority.crt"
        self.ca_file.write_bytes(self._own_certificate().public_bytes(Encoding.PEM))

    def issue(self, *names: str, starts: timedelta = -DAY, ends: timedelta = 30 * DAY) -> Leaf:
        """A certificate for all the names, valid from `starts` to `ends`, both counted from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _for_names(names, key.public_key(), starts, ends).issuer_name(self._subject)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        return self._written(builder.sign(self._key, SHA256()), key)

    def self_signed(self, *names: str) -> Leaf:
        """A certificate nobody but itself vouches for."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _for_names(names, key.public_key(), -DAY, 30 * DAY).issuer_name(_named(names[0]))
        return self._written(builder.sign(key, SHA256()), key)

    def _own_certificate(self) -> x509.Certificate:
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        public = self._key.public_key()
        return (
            _valid(self._subject, public, -DAY, 3650 * DAY)
            .issuer_name(self._subject)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self._key, SHA256())
        )

    def _written(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Leaf:
        number = next(self._serial)
        leaf = Leaf(self._folder / f"leaf{number}.crt", self._folder / f"leaf{number}.key")
        leaf.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        leaf.private_key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        leaf.private_key.chmod(0o600)
        return leaf


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _valid(
    subject: x509.Name, public: ec.EllipticCurvePublicKey, starts: timedelta, ends: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + starts)
        .not_valid_after(now + ends)
    )


def _for_names(
    names: tuple[str, ...], public: ec.EllipticCurvePublicKey, starts: timedelta, ends: timedelta
) -> x509.CertificateBuilder:
    return (
        _valid(_named(names[0]), public, starts, ends)
        .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name.strip("[]")))
    except ValueError:
        return x509.DNSName(name)
