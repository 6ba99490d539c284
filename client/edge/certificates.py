"""The device's TLS key and certificates: made here, certified by the population's authority.

Guarantees: a private key is generated on this device (ECDSA P-256) and goes into no request;
certificates that come back are taken only if they certify this very key and lead, signature by
signature, to the CA that came with the bundle.

Dates are left to TLS, whose clock is the same: a device whose clock is off by more than its
certificates bear can't connect, whatever is checked here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from tacit.privacy.errors import MessageError, StorageError

_PEM = serialization.Encoding.PEM
_DER = serialization.Encoding.DER
_LONGEST_CHAIN = 5
# Of a certificate's life; renewed once less is left.
_LEFT = 1 / 3


def request() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """A fresh key, and the request (PKCS#10, DER) to certify it."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Who the device is is for the authority to say; the subject is ignored.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
    made = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, SHA256())
    return key, made.public_bytes(_DER)


def bound(key: ec.EllipticCurvePrivateKey, chain: Sequence[bytes], ca: str) -> bytes:
    """Key and certificates as one PEM, once they are found to belong together.

    Args:
        key: of the device.
        chain: DER, the device's own first, then its issuers without the root.
        ca: PEM of the root.

    Raises:
        MessageError: the chain doesn't lead from the key to the root.
    """
    if not 0 < len(chain) <= _LONGEST_CHAIN:
        raise MessageError(f"a chain of {len(chain)} certificates")
    try:
        found = [x509.load_der_x509_certificate(der) for der in chain]
        issuers = [*found[1:], x509.load_pem_x509_certificate(ca.encode())]
        for certificate, issuer in zip(found, issuers, strict=True):
            certificate.verify_directly_issued_by(issuer)
            limits = issuer.extensions.get_extension_for_class(x509.BasicConstraints)
            if not limits.value.ca:
                raise MessageError("a certificate was issued by one that may not")
        same = found[0].public_key() == key.public_key()
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise MessageError("the certificates don't lead to the bundle's CA") from error
    except x509.ExtensionNotFound as error:
        raise MessageError("a certificate was issued by one that may not") from error
    if not same:
        raise MessageError("the certificate is for another key than this device's")
    private = key.private_bytes(
        _PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + b"".join(certificate.public_bytes(_PEM) for certificate in found)


def credentials(pem: bytes, ca: str) -> grpc.ChannelCredentials:
    """What `bound` made, as gRPC takes it.

    Raises:
        StorageError: it isn't that.
    """
    start = pem.find(b"-----BEGIN CERTIFICATE-----")
    if start <= 0:
        raise StorageError("the device's certificate file isn't one", "enrol anew")
    return grpc.ssl_channel_credentials(ca.encode(), pem[:start], pem[start:])


def validity(pem: bytes) -> tuple[dt.datetime, dt.datetime]:
    """From when to when the device's own certificate is valid.

    Raises:
        StorageError: it can't be read.
    """
    try:
        found = x509.load_pem_x509_certificates(pem)[0]
    except ValueError as error:
        raise StorageError("the device's certificate file isn't one", "enrol anew") from error
    return found.not_valid_before_utc, found.not_valid_after_utc


def due(pem: bytes, now: dt.datetime) -> bool:
    """Whether less than a third of a certificate's life is left."""
    begin, end = validity(pem)
    return end - now < (end - begin) * _LEFT
