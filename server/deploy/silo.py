"""A silo's own keys, made at the silo, and the public parts that it hands in.

Guarantees: both private keys are made here and stay in the silo's folder. The public parts are
signed with the identity, so whoever collects them knows that one holder of that identity meant
this client number, this node key and this population; a copy under another number is refused.
That the file came from that silo, unaltered, isn't guaranteed by anything in it: whoever could
replace it could put a key of their own in its place. Compare fingerprints over another channel.

Two keys, for two things: the *node key* (ECDSA P-384, OpenSSH format, as Flower wants it) opens
the SuperLink to the silo's SuperNode; the *identity* (Ed25519) signs what the client says in
the rounds, end to end, and is what the directory pins.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError, StorageError
from tacit.privacy.secagg.directory import key_path
from tacit.privacy.secagg.keys import Identity, derive, verify
from tacit.server.deploy import files

VERSION = 1
FLOORS = {"secure": True, "seeded": False}


@dataclass(frozen=True, slots=True)
class PublicParts:
    """What a silo hands in.

    Attributes:
        population: of the federation, which both sides agreed on beforehand.
        client: its number in the federation.
        identity: Ed25519 public key, 32 bytes.
        node: public key of the SuperNode, in OpenSSH's format, without a comment.
        signature: of the identity over the rest.
    """

    population: str
    client: int
    identity: bytes
    node: str
    signature: bytes

    def statement(self) -> bytes:
        """What the signature covers."""
        return _statement(self.population, self.client, self.identity, self.node)

    def fingerprint(self) -> str:
        """SHA-256 of all of it, in hex, to compare over another channel."""
        return hashlib.sha256(self.statement()).hexdigest()

    def dumps(self) -> bytes:
        """The public parts file."""
        return files.dumps(
            {
                "version": VERSION,
                "population": self.population,
                "client": self.client,
                "identity": self.identity.hex(),
                "node": self.node,
                "signature": self.signature.hex(),
            }
        )

    @classmethod
    def load(cls, path: Path) -> PublicParts:
        """Reads and verifies a public parts file.

        Raises:
            StorageError: it can't be read, is malformed, or isn't signed by its identity.
        """
        found = files.read_json(path, "`tacit deploy silo` makes it")
        try:
            made = cls._from(found)
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"{path} isn't a silo's public parts: {error!r}") from error
        if not verify(made.identity, made.signature, made.statement()):
            raise StorageError(f"{path} isn't signed by its identity", "ask the silo for it again")
        node_public(made.node.encode(), str(path))
        return made

    @classmethod
    def _from(cls, found: dict[str, Any]) -> PublicParts:
        if found["version"] != VERSION:
            raise ValueError(f"version={found['version']}")
        client, population, node = found["client"], found["population"], found["node"]
        if isinstance(client, bool) or not isinstance(client, int) or client < 0:
            raise ValueError(f"client={client}")
        if not isinstance(population, str) or not isinstance(node, str):
            raise ValueError("population and node must be texts")
        return cls(
            population,
            client,
            bytes.fromhex(found["identity"]),
            node,
            bytes.fromhex(found["signature"]),
        )


class SiloFolder:
    """Where a silo keeps what is its own.

    Attributes:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def node_key(self) -> Path:
        """The SuperNode's private key."""
        return self.root / "node.key"

    @property
    def node_public(self) -> Path:
        """The SuperNode's public key, for ``flwr supernode register``."""
        return self.root / "node.pub"

    @property
    def secret(self) -> Path:
        """What the SuperNode and its SuperExec know each other by."""
        return self.root / "superexec.secret"

    @property
    def home(self) -> Path:
        """The ClientApp's ``client-home``: identity, directory, floors, vault, ledger."""
        return self.root / "client"

    @property
    def public(self) -> Path:
        """The public parts file."""
        return self.root / "public.json"

    @property
    def federation(self) -> Path:
        """The pinned federation file; there once the silo has joined."""
        return self.root / "federation.json"

    def clients(self) -> list[int]:
        """The clients whose identity is here; one, if all is well."""
        return sorted(int(p.stem) for p in self.home.glob("*.key") if p.stem.isdecimal())


def make(root: Path, client: int, population: str) -> PublicParts:
    """A silo's keys and its public parts, or those that are there already.

    Raises:
        ConfigError: a value can't be; or the folder is another client's.
        StorageError: the folder can't be written, or has something that isn't a key.
    """
    validate.at_least("client", client, 0)
    if not population or len(population) > 200:
        raise ConfigError(f"population={population!r} must have 1 to 200 characters")
    place = SiloFolder(root)
    files.folder(root)
    files.folder(place.home)
    if place.clients() not in ([], [client]):
        raise ConfigError(
            f"{root} is the folder of client {place.clients()[0]}",
            f"choose another for client={client}",
        )
    files.create(key_path(place.home, client), Identity.generate().private)
    files.create(place.node_key, _node_key())
    files.create(place.secret, secrets.token_bytes(32))
    files.create(place.home / "floors.json", files.dumps(FLOORS))
    identity, node = identity_of(root, client), node_of(root)
    files.replace(place.node_public, f"{node}\n".encode())
    signature = identity.sign(_statement(population, client, identity.public, node))
    made = PublicParts(population, client, identity.public, node, signature)
    files.replace(place.public, made.dumps())
    return made


def identity_of(root: Path, client: int) -> Identity:
    """The identity in a silo's folder.

    Raises:
        StorageError: it isn't there, or isn't one.
    """
    path = key_path(SiloFolder(root).home, client)
    try:
        return Identity.from_bytes(files.read(path))
    except ConfigError as error:
        raise StorageError(f"{path} isn't an identity: {error.message}", "move it away") from error


def node_of(root: Path) -> str:
    """The public key of the SuperNode's key in a silo's folder, in OpenSSH's format.

    Raises:
        StorageError: it isn't there, or isn't one.
    """
    path = SiloFolder(root).node_key
    try:
        key = serialization.load_ssh_private_key(files.read(path), None)
    except (ValueError, TypeError) as error:
        raise StorageError(f"{path} isn't an OpenSSH key without a password") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StorageError(f"{path} isn't a key on a NIST curve, as Flower wants it")
    return _ssh(key.public_key())


def node_public(data: bytes, what: str) -> ec.EllipticCurvePublicKey:
    """A SuperNode's public key.

    Raises:
        StorageError: it isn't one.
    """
    try:
        key = serialization.load_ssh_public_key(data)
    except (ValueError, TypeError) as error:
        raise StorageError(f"{what}: the node key isn't in OpenSSH's format") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise StorageError(f"{what}: the node key isn't on a NIST curve")
    return key


def _statement(population: str, client: int, identity: bytes, node: str) -> bytes:
    return derive("deploy silo", population.encode(), str(client).encode(), identity, node.encode())


def _node_key() -> bytes:
    return ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )


def _ssh(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    ).decode()
