"""The keys of a population's operator: certificates, attestations, run documents.

Four files in a home's ``keys`` folder, made when they are first needed, the owner's only:

* ``ca.key`` and ``ca.crt``: ECDSA P-256 and its self-signed certificate, which devices and
  gateway check each other against. Its certificates can't issue others.
* ``authority.key``: Ed25519; signs whose identity is which client's.
* ``coordinator.key``: Ed25519; signs run documents.

Guarantees: a key is on disk whole before it is used, and none is ever overwritten. A
device's certificate names its population and its number and nothing else, and is of no use to
serve with; a server's is of no use to call with.

It doesn't guarantee that the keys are kept from whoever can read the home, who can enrol
devices of their own. Keys aren't rotated yet: devices pin ca.crt, authority and coordinator.
"""

from __future__ import annotations

import hashlib
import ipaddress
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, unquote

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tacit.privacy.errors import ConfigError, StorageError
from tacit.privacy.secagg.keys import Identity
from tacit.protocol import statements
from tacit.server.gateway.devices import Issued
from tacit.server.gateway.refused import RefusedError
from tacit.server.home import Home, explained, write_durably

LOCK = "keys/gateway.lock"
# A device's certificate starts so long ago, since clocks differ; a server's and the authority's
# longer, since it is the device's clock, which may be off by hours, that is asked about those.
_BACKDATED, _BACKDATED_SERVER = timedelta(minutes=5), timedelta(days=1)
_CA_LIFETIME, _SERVER_LIFETIME = timedelta(days=3650), timedelta(days=397)
_URI = "tacit"
_MAX_CSR = 4096
# What `cryptography` raises over bytes from outside; not all of it is a ValueError.
_UNREADABLE = (ValueError, TypeError, x509.InvalidVersion, UnsupportedAlgorithm, InvalidSignature)


class Authority:
    """The operator's keys of a home.

    Args:
        home: where they are; made if they aren't there.
        population: that certificates and attestations are for.
        clock: Unix seconds.

    Attributes:
        certificate: of the certificate authority, PEM.
        public: Ed25519 key that verifies attestations.
        coordinator: identity that signs run documents.

    Raises:
        StorageError: a key can't be read or written, others may read it, or one of a pair is
            gone.
    """

    def __init__(self, home: Home, population: str, clock: Callable[[], float] = time.time) -> None:
        self._population, self._clock = population, clock
        with home.lock(LOCK):
            self._key, self._own = _certificate_authority(home.keys, self._now())
            self._attester = _identity(home.keys / "authority.key")
            self.coordinator = _identity(home.keys / "coordinator.key")
        self.certificate = self._own.public_bytes(serialization.Encoding.PEM)
        self.public = self._attester.public

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def attest(self, client: int, identity: bytes) -> bytes:
        """The signature that an identity is a client's."""
        return self._attester.sign(statements.attestation(self._population, client, identity))

    def issue(self, csr: x509.CertificateSigningRequest, client: int, lifetime: float) -> Issued:
        """A device's certificate.

        Args:
            csr: as `request` read it; only its key is taken.
            client: the device's number.
            lifetime: seconds from now.
        """
        now = self._now()
        name = f"{_URI}:{quote(self._population, safe='')}:{client}"
        builder = self._builder(f"client {client}", now - _BACKDATED, timedelta(seconds=lifetime))
        made = (
            builder.public_key(csr.public_key())
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name)]), critical=False
            )
            .add_extension(_purpose(ExtendedKeyUsageOID.CLIENT_AUTH), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        der = made.public_bytes(serialization.Encoding.DER)
        until = int(made.not_valid_after_utc.timestamp())
        return Issued(der, fingerprint(der), f"{made.serial_number:x}", until)

    def server(self, hosts: Sequence[str]) -> tuple[bytes, bytes]:
        """A new key and certificate for the gateway, both PEM, the key in memory only.

        Args:
            hosts: names and addresses that devices reach it by.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        until = min(self._now() + _SERVER_LIFETIME, self._own.not_valid_after_utc)
        begin = max(self._now() - _BACKDATED_SERVER, self._own.not_valid_before_utc)
        builder = self._builder("tacit gateway", begin, until - self._now())
        made = (
            builder.public_key(key.public_key())
            .add_extension(x509.SubjectAlternativeName([_host(h) for h in hosts]), critical=False)
            .add_extension(_purpose(ExtendedKeyUsageOID.SERVER_AUTH), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return pem, made.public_bytes(serialization.Encoding.PEM)

    def _builder(self, name: str, begin: datetime, lifetime: timedelta) -> x509.CertificateBuilder:
        key = self._key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self._own.subject)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(self._now() + lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(issues=False), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key), critical=False)
        )

    def client_of(self, der: bytes) -> int:
        """The number in a device's certificate.

        The caller has checked who issued it: TLS did.

        Raises:
            RefusedError: it has none, or is another population's.
        """
        try:
            found = x509.load_der_x509_certificate(der).extensions
            names = found.get_extension_for_class(x509.SubjectAlternativeName).value
            (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
            scheme, population, client = uri.split(":")
        except (ValueError, x509.ExtensionNotFound) as error:
            raise RefusedError("CERTIFICATE", "this certificate is no device's") from error
        if scheme != _URI or unquote(population) != self._population or not client.isdecimal():
            raise RefusedError("CERTIFICATE", "this certificate is of another population")
        return int(client)


def request(der: bytes) -> x509.CertificateSigningRequest:
    """Reads a PKCS#10 request and checks that its sender holds the key.

    Raises:
        RefusedError: it isn't one, isn't signed by its own key, or that isn't ECDSA P-256.
    """
    if not 0 < len(der) <= _MAX_CSR:
        raise RefusedError("MALFORMED", f"csr has {len(der)} bytes")
    try:
        found = x509.load_der_x509_csr(der)
        key = found.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise RefusedError("KEY", "the key of csr isn't ECDSA P-256")
        if not found.is_signature_valid:
            raise RefusedError("PROOF", "csr isn't signed by its own key")
    except _UNREADABLE as error:
        raise RefusedError("MALFORMED", "csr isn't a PKCS#10 request in DER") from error
    return found


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate, in hex."""
    return hashlib.sha256(der).hexdigest()


def _certificate_authority(
    folder: Path, now: datetime
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key_path, path = folder / "ca.key", folder / "ca.crt"
    if not key_path.exists():
        if path.exists():
            raise StorageError(f"{key_path} is gone", "restore it from a backup")
        made = ec.generate_private_key(ec.SECP256R1())
        pem = made.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_durably(key_path, pem)
    with explained(f"{key_path} can't be read"):
        data = _secret(key_path)
    try:
        key = serialization.load_pem_private_key(data, None)
    except ValueError:
        # Not chained: the error may quote the file.
        raise StorageError(f"{key_path} isn't a key", "restore it from a backup") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StorageError(f"{key_path} isn't an ECDSA key", "restore it from a backup")
    if not path.exists():
        # A crash came between the two: nothing was issued under a certificate that isn't there.
        write_durably(path, _self_signed(key, now).public_bytes(serialization.Encoding.PEM))
    with explained(f"{path} can't be read"):
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    if certificate.public_key() != key.public_key():
        raise StorageError(f"{path} isn't the certificate of {key_path}", "restore both")
    return key, certificate


def _self_signed(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    # A serial in the name, so that two homes' authorities aren't taken for each other.
    serial = x509.random_serial_number()
    name = _name(f"tacit devices {serial:040x}"[:60])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - _BACKDATED_SERVER)
        .not_valid_after(now + _CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(issues=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _identity(path: Path) -> Identity:
    if not path.exists():
        write_durably(path, f"{Identity.generate().private.hex()}\n".encode())
    with explained(f"{path} can't be read"):
        data = _secret(path)
    try:
        return Identity.from_bytes(bytes.fromhex(data.decode().strip()))
    except (ValueError, ConfigError):
        raise StorageError(f"{path} isn't a key", "restore it from a backup") from None


def _secret(path: Path) -> bytes:
    if path.stat().st_mode & 0o077:
        raise StorageError(f"{path} can be read by others", f"chmod 600 {path}")
    return path.read_bytes()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _purpose(of: x509.ObjectIdentifier) -> x509.ExtendedKeyUsage:
    return x509.ExtendedKeyUsage([of])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _usage(issues: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not issues,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=issues,
        crl_sign=issues,
        encipher_only=False,
        decipher_only=False,
    )
