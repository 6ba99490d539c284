"""The device's folder: its keys, whom it trusts, and what it must remember.

Guarantees: private keys are made here and never leave; every file is its owner's only, and is
there whole or not at all. The authority's and the coordinator's keys and the CA come from the
bundle that was handed over out of band, and nothing that arrives over the network changes
them. A certificate and its key are one file, so that the two always fit.

It doesn't encrypt: who reads the folder is the device.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tacit.privacy.errors import ConfigError, StorageError
from tacit.privacy.secagg.keys import KEY_BYTES, Identity

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What an operator hands to one device, out of band, to enrol with.

    Attributes:
        population: the device joins.
        enrol: "host:port" of enrolment.
        gateway: "host:port" of the gateway.
        ca: the certificate, PEM, that both must be certified by.
        authority: Ed25519 key of the enrolment authority, in hex.
        coordinator: Ed25519 key that run documents are signed with, in hex.
        token: good for one enrolment; a secret.
        version: of this format.
    """

    population: str
    enrol: str
    gateway: str
    ca: str
    authority: str
    coordinator: str
    token: str
    version: int = VERSION

    def __post_init__(self) -> None:
        _check(asdict(self))
        if not self.token:
            raise ConfigError("token='' must not be empty")

    def __repr__(self) -> str:
        return f"Bundle(population={self.population!r}, enrol={self.enrol!r})"

    @classmethod
    def load(cls, path: Path) -> Bundle:
        """Reads a bundle.

        Raises:
            StorageError: the file can't be read, or isn't a bundle.
        """
        held = _document(path, "bundle")
        with _read_as("bundle", path):
            return cls(**held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """A device that is enrolled: who it is, and whom it trusts.

    Attributes:
        client: its number.
        population: it belongs to.
        gateway: see `Bundle`, as for the others.
        ca: PEM.
        authority: in hex.
        coordinator: in hex.
        version: of this format.
    """

    client: int
    population: str
    gateway: str
    ca: str
    authority: str
    coordinator: str
    version: int = VERSION

    def __post_init__(self) -> None:
        _check(asdict(self))
        if not (isinstance(self.client, int) and 0 <= self.client < 2**32):
            raise ConfigError(f"client={self.client!r} isn't a client's number")


class Home:
    """The folder.

    Args:
        path: of it; made when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def config(self) -> Path:
        """The owner's settings (`tacit.client.edge.config`)."""
        return self.path / "agent.toml"

    @property
    def vault(self) -> Path:
        """Sessions of secure aggregation."""
        return self.path / "vault.sqlite"

    @property
    def ledger(self) -> Path:
        """What was spent and refused."""
        return self.path / "ledger.sqlite"

    @property
    def peers(self) -> Path:
        """Other devices' identities."""
        return self.path / "peers.sqlite"

    @property
    def blobs(self) -> Path:
        """Downloads."""
        return self.path / "blobs"

    @property
    def secrets(self) -> list[Path]:
        """What is nobody else's to read."""
        kept = [self.path / name for name in ("identity.key", "tls.pem", "device.json")]
        return [*kept, self.vault, self.ledger, self.peers]

    @property
    def is_enrolled(self) -> bool:
        """Whether an enrolment was finished here."""
        return (self.path / "device.json").exists()

    def enrolled(self) -> Enrolled:
        """Who this device is.

        Raises:
            StorageError: it isn't enrolled, or the file can't be read.
        """
        path = self.path / "device.json"
        if not self.is_enrolled:
            raise StorageError(f"{self.path} isn't enrolled", "tacit-edge enrol BUNDLE --home DIR")
        held = _document(path, "file")
        with _read_as("file of an enrolled device", path):
            return Enrolled(**held)

    def enrol(self, who: Enrolled) -> None:
        """Writes down who this device is."""
        write(self.path / "device.json", json.dumps(asdict(who), indent=1).encode())

    def identity(self, make: bool = False) -> Identity:
        """The key that signs every answer.

        Args:
            make: whether to make one if there is none.

        Raises:
            StorageError: there is none, or it can't be read or written.
        """
        path = self.path / "identity.key"
        if make and not path.exists():
            write(path, Identity.generate().private)
        with _read_as("signing key", path):
            return Identity.from_bytes(path.read_bytes())

    def certificate(self) -> bytes:
        """The private key and the certificates of TLS, PEM.

        Raises:
            StorageError: they can't be read.
        """
        path = self.path / "tls.pem"
        with _read_as("certificate", path):
            return path.read_bytes()

    def certify(self, pem: bytes) -> None:
        """Replaces the key and the certificates of TLS."""
        write(self.path / "tls.pem", pem)


def write(path: Path, data: bytes) -> None:
    """Writes a file of its owner's only, whole or not at all, durably.

    Raises:
        StorageError: it can't be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            os.fchmod(out.fileno(), 0o600)
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StorageError(f"{path} can't be written: {error.strerror}") from error


def _document(path: Path, what: str) -> dict[str, Any]:
    with _read_as(what, path):
        held = json.loads(path.read_bytes())
    if not isinstance(held, dict):
        raise StorageError(f"{path} isn't a {what}")
    return held


@contextlib.contextmanager
def _read_as(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{what} {path} can't be read: {error.strerror}") from error
    except (ConfigError, ValueError, TypeError, RecursionError) as error:
        # A bundle holds a secret: what failed is named, not shown.
        said = error.message if isinstance(error, ConfigError) else type(error).__name__
        raise StorageError(f"{path} isn't a {what}: {said}") from error


def _check(held: Mapping[str, Any]) -> None:
    """What bundles and enrolled devices have in common."""
    if held["version"] != VERSION:
        raise ConfigError(f"version={held['version']!r} must be {VERSION}")
    texts = set(held) & {"population", "enrol", "gateway", "ca", "token"}
    for name in sorted(texts):
        if not isinstance(held[name], str):
            raise ConfigError(f"{name} must be a text")
    for name in ("authority", "coordinator"):
        try:
            long = len(bytes.fromhex(held[name]))
        except (TypeError, ValueError):
            long = 0
        if long != KEY_BYTES:
            raise ConfigError(f"{name} must be a key of {KEY_BYTES} bytes in hex")
    for name in {"enrol", "gateway"} & set(held):
        host, _, port = held[name].rpartition(":")
        if not host or not port.isdecimal():
            raise ConfigError(f"{name}={held[name]!r} must be host:port")
