"""Issues the certificates of an etcd cluster: two authorities, and what they sign for members and clients.

Two authorities because etcd asks nothing but "signed by mine?" on the port between members, where whoever gets in is a member:
with one authority a client's certificate, which lies on every worker, would open that port too.

Guarantees: no certificate outlives its authority, and one for a client cannot be used as a server's. Does not touch files
(:mod:`scaler_plugin.etcd_care.certificate_files` does).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ORGANIZATION = "scaler-sidecar etcd"
#: An authority's key stays off the servers; replacing it means touching every member and client (docs/etcd.md, "stolen").
AUTHORITY_LIFE = timedelta(days=3650)
#: Clocks of fresh machines are a little off.
CLOCK_SKEW = timedelta(hours=1)

_SERVER_AND_CLIENT = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def matches(self) -> bool:
        """Whether they belong together: a renewal that was cut off may leave two that do not."""
        return self.certificate.public_key() == self.key.public_key()

    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def read_pair(certificate: bytes, key: bytes) -> Pair:
    """Raises ``ValueError`` for what is no such pair of PEM texts."""
    private = serialization.load_pem_private_key(key, password=None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ValueError("the private key is of another kind than this program makes")
    return Pair(x509.load_pem_x509_certificate(certificate), private)


def new_authority(name: str, now: datetime) -> Pair:
    subject = _name(name)
    key = ec.generate_private_key(ec.SECP256R1())
    return Pair(
        _builder(subject, subject, key.public_key(), now, now + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256()),
        key,
    )


def issue_member(authority: Pair, member: str, hosts: Sequence[str], ends: datetime, now: datetime) -> Pair:
    """For a member's port, to clients or to the other members; ``hosts`` are all names and addresses it is reached by.

    It has no common name, which etcd takes for a user's: etcd's HTTP gateway shows this certificate to its own server and would
    act as that user (CVE-2018-16886). For the same gateway it must also serve as a client's.
    """
    return _issue(authority, _name(None, member), _SERVER_AND_CLIENT, hosts, ends, now)


def issued_by(pair: Pair, authority: Pair) -> bool:
    """By its signature: an authority that replaced another has the same name."""
    try:
        pair.certificate.verify_directly_issued_by(authority.certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def issue_client(authority: Pair, user: str, ends: datetime, now: datetime) -> Pair:
    """For a client. etcd takes the common name for the user, so that no password is needed."""
    return _issue(authority, _name(user), (ExtendedKeyUsageOID.CLIENT_AUTH,), (), ends, now)


def hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The names and addresses it is good for, as they were given."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names)


def _issue(
    authority: Pair,
    subject: x509.Name,
    purposes: Sequence[x509.ObjectIdentifier],
    hosts: Sequence[str],
    ends: datetime,
    now: datetime,
) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    ends = min(ends, authority.certificate.not_valid_after_utc)
    builder = (
        _builder(subject, authority.certificate.subject, key.public_key(), now, ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(list(purposes)), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.certificate.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
    )
    if hosts:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False
        )
    return Pair(builder.sign(authority.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common_name: str | None, unit: str | None = None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION)]
    if unit:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit))
    if common_name:
        parts.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    return x509.Name(parts)


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
