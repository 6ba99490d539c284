"""Signatures, key agreement, sealing and hashing, as thin functions over `cryptography`.

Guarantees: Ed25519 (RFC 8032), X25519 (RFC 7748) with HKDF-SHA256 (RFC 5869), AES-256-GCM
(NIST SP 800-38D) and SHA-256 over an injective encoding; no object here prints its secret.

It doesn't guarantee the uniqueness of keys: a key of `seal` seals one message in its life.
Two parties that agree on a secret need a different ``info`` for each direction and purpose.
Secrets stay in Python's memory until it is reused.
"""

from __future__ import annotations

import functools
import hashlib

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tacit.privacy.errors import ConfigError, MessageError

KEY_BYTES = 32
SIGNATURE_BYTES = 64
TAG_BYTES = 16
_NONCE = bytes(12)


def _key(what: str, data: bytes) -> bytes:
    if len(data) != KEY_BYTES:
        raise ConfigError(f"{what} has {len(data)} bytes, not {KEY_BYTES}")
    return data


class Identity:
    """A client's long-lived signing key (Ed25519).

    Attributes:
        public: the key that `verify` takes, 32 bytes.
        private: the seed of RFC 8032, 32 bytes; a secret.
    """

    __slots__ = ("_key", "private", "public")

    def __init__(self, private: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(_key("a signing key", private))
        self.private = private
        self.public = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Identity:
        """A new identity from the operating system's randomness."""
        return cls.from_bytes(Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def from_bytes(cls, private: bytes) -> Identity:
        """The identity of a 32-byte seed.

        Raises:
            ConfigError: the seed doesn't have 32 bytes.
        """
        return cls(private)

    def sign(self, statement: bytes) -> bytes:
        """The signature of ``statement``, 64 bytes, deterministic."""
        return self._key.sign(statement)

    def __repr__(self) -> str:
        return f"Identity(public={self.public.hex()})"


@functools.lru_cache(maxsize=65536)
def verify(public: bytes, signature: bytes, statement: bytes) -> bool:
    """Whether ``signature`` is that of ``statement`` under ``public``; False on wrong lengths.

    Remembered, since many clients of one process check the same signatures. That is sound:
    the answer is a function of three immutable byte strings that are compared in full, no
    secret and no state of the protocol is involved, and a false answer is kept as a true one
    is. The memory holds the statements, so sign short ones or their hashes.
    """
    if len(public) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, statement)
    except InvalidSignature:
        return False
    return True


class KeyPair:
    """One party's key for agreeing on secrets (X25519).

    Attributes:
        public: the key that the other party gives to `agree`, 32 bytes.
        private: the scalar before clamping, 32 bytes; a secret.
    """

    __slots__ = ("_key", "private", "public")

    def __init__(self, private: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(_key("a private key", private))
        self.private = private
        self.public = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> KeyPair:
        """A new pair from the operating system's randomness."""
        return cls.from_bytes(X25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def from_bytes(cls, private: bytes) -> KeyPair:
        """The pair of a 32-byte scalar.

        Raises:
            ConfigError: the scalar doesn't have 32 bytes.
        """
        return cls(private)

    def exchange(self, public: bytes) -> bytes:
        """X25519 of the scalar and the other's key: 32 bytes, not yet fit to be a key.

        Raises:
            MessageError: ``public`` doesn't have 32 bytes or is a point of low order, for
                which the result would be zero whatever the scalar (RFC 7748, section 6.1).
        """
        if len(public) != KEY_BYTES:
            raise MessageError(f"a public key has {len(public)} bytes, not {KEY_BYTES}")
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:
            raise MessageError("a public key is a point of low order") from error

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public.hex()})"


def agree(private: KeyPair, public: bytes, info: bytes) -> bytes:
    """A 32-byte key that both parties compute: HKDF-SHA256 of the X25519 secret, no salt.

    Args:
        private: this party's pair.
        public: the other party's public key, 32 bytes.
        info: what the key is for, the same on both sides; put both public keys into it.

    Raises:
        MessageError: ``public`` is no usable key.
    """
    return _hkdf(private.exchange(public), info)


def _hkdf(secret: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def seal(key: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """AES-256-GCM with a nonce of zeros: the ciphertext with its 16-byte tag.

    The nonce is constant because the key is for this one message; a second message under the
    same key would give away the difference of the two and let anyone forge.

    Args:
        key: 32 bytes, used once.
        plaintext: what only the other holder of the key reads.
        associated: what is authenticated with it and not sent.
    """
    return AESGCM(_key("a sealing key", key)).encrypt(_NONCE, plaintext, associated)


def open_(key: bytes, ciphertext: bytes, associated: bytes) -> bytes:
    """The plaintext of `seal`.

    Raises:
        MessageError: the ciphertext wasn't sealed with this key and this ``associated``.
    """
    try:
        return AESGCM(_key("a sealing key", key)).decrypt(_NONCE, ciphertext, associated)
    except InvalidTag as error:
        raise MessageError("a sealed message doesn't open: altered, or another's") from error


def derive(tag: str, *parts: bytes) -> bytes:
    """SHA-256 of the tag and the parts, each after its length (8 bytes, big-endian).

    The encoding is injective: other parts, or the same bytes cut elsewhere, or another tag
    give another input to the hash.

    Args:
        tag: names the purpose; no two purposes share one.
        parts: any bytes.

    Returns:
        32 bytes.
    """
    digest = hashlib.sha256()
    for part in (tag.encode(), *parts):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
