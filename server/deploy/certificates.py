"""The federation's own authority, and the certificate by which silos know the SuperLink.

Guarantees: an authority that can sign servers' certificates and no further authorities; a
server's certificate for exactly the names it was made for. Keys are ECDSA P-256, signatures
SHA-256; serial numbers are random (RFC 5280). Silos trust this authority and no other, since
they are started with its certificate as their only root.

Nothing here is a list of what was revoked: a server's certificate lasts a year, and who holds
the authority's key decides what the silos' TLS trusts. Keep it off the machine.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tacit.privacy.errors import ConfigError, StorageError

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397
# Clocks differ.
_SLACK = dt.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Pair:
    """A private key and its certificate, both PEM; prints neither.

    Attributes:
        key: PKCS #8, not encrypted; a secret.
        certificate: X.509.
    """

    key: bytes
    certificate: bytes

    def __repr__(self) -> str:
        return "Pair(...)"


def authority(name: str) -> Pair:
    """A new authority.

    Args:
        name: of the federation, for people.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} authority"[:64])])
    usage = _usage(cert_sign=True)
    made = (
        _begun(subject, subject, key.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return Pair(_pem(key), made.public_bytes(serialization.Encoding.PEM))


def issue(signer: Pair, hosts: Sequence[str]) -> Pair:
    """A server's certificate, with a key of its own.

    Args:
        signer: the authority.
        hosts: names and addresses under which it is reached; the first is the subject.

    Raises:
        ConfigError: there is no host, or one that isn't a name.
        StorageError: the authority's files aren't an authority's.
    """
    root, root_key = parse(signer.certificate), _private(signer.key)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    identifier = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    made = (
        _begun(subject, root.subject, key.public_key(), SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(cert_sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives(hosts)), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .sign(root_key, hashes.SHA256())
    )
    return Pair(_pem(key), made.public_bytes(serialization.Encoding.PEM))


def alternatives(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Hosts as subject alternative names; addresses as addresses.

    Raises:
        ConfigError: there is none, or one isn't a host's name.
    """
    if not hosts:
        raise ConfigError("a server's certificate needs a host")
    made: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            made.append(x509.IPAddress(ipaddress.ip_address(host)))
            continue
        except ValueError:
            pass
        parts = host.split(".")
        if not all(p and len(p) < 64 and p.replace("-", "").isalnum() for p in parts):
            raise ConfigError(f"host={host} isn't a name or an address", "leave the port out")
        try:
            made.append(x509.DNSName(host))
        except ValueError as error:
            raise ConfigError(f"host={host} isn't a name or an address: {error}") from error
    return made


def parse(certificate: bytes, what: str = "certificate") -> x509.Certificate:
    """A certificate in PEM.

    Raises:
        StorageError: it isn't one.
    """
    try:
        return x509.load_pem_x509_certificate(certificate)
    except ValueError as error:
        raise StorageError(f"{what} isn't a PEM certificate: {error}") from error


def problems(pair: Pair, root: bytes, hosts: Sequence[str]) -> list[str]:
    """What keeps a server's key and certificate from serving ``hosts`` under ``root``."""
    leaf, signer = parse(pair.certificate), parse(root)
    found = []
    try:
        leaf.verify_directly_issued_by(signer)
    except (InvalidSignature, ValueError, TypeError):
        found.append("isn't signed by ca.crt")
    if _private(pair.key).public_key() != leaf.public_key():
        found.append("isn't of the key beside it")
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    missing = [str(name.value) for name in alternatives(hosts) if name not in names]
    if missing:
        found.append(f"isn't for {', '.join(missing)}")
    return found


def days_left(certificate: bytes) -> float:
    """Days until a certificate expires; negative if it has."""
    left = parse(certificate).not_valid_after_utc - dt.datetime.now(dt.UTC)
    return left / dt.timedelta(days=1)


def _begun(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SLACK)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(cert_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=cert_sign,
        crl_sign=cert_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _private(key: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        found = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError) as error:
        raise StorageError("a certificate's key isn't a PEM key without a password") from error
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise StorageError("a certificate's key isn't an elliptic curve's")
    return found
