"""The coordinator's folder: authority, SuperLink, the directory, and the federation file.

Guarantees: a client's key, once collected, isn't replaced by another one, neither at the
coordinator nor in a silo that has joined; the same holds for the authority. Who is let in is
decided by whoever runs `collect`, by what they were handed.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError, StorageError
from tacit.privacy.secagg.directory import PinnedDirectory
from tacit.server.deploy import certificates, files
from tacit.server.deploy.certificates import Pair
from tacit.server.deploy.silo import PublicParts, SiloFolder, identity_of

VERSION = 1
# What runs on the coordinator's own machine reaches the SuperLink by these.
LOCAL = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a coordinator's folder was made for.

    Attributes:
        population: of the federation.
        host: under which silos reach the SuperLink.
        port: of the SuperLink.
        listen: address that the SuperLink binds to.
    """

    population: str
    host: str
    port: int
    listen: str

    def __post_init__(self) -> None:
        if not self.population or len(self.population) > 200:
            raise ConfigError(f"population={self.population!r} must have 1 to 200 characters")
        certificates.alternatives([self.host, self.listen])
        validate.at_least("port", self.port, 1)
        if self.port > 65535:
            raise ConfigError(f"port={self.port} must be at most 65535")

    @property
    def superlink(self) -> str:
        """Where silos find the SuperLink."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def hosts(self) -> list[str]:
        """What the SuperLink's certificate is for."""
        return list(dict.fromkeys([self.host, *LOCAL]))


@dataclass(frozen=True, slots=True)
class Federation:
    """What every silo pins; it holds no secret.

    Attributes:
        population: of the federation.
        superlink: host and port.
        authority: the authority's certificate, PEM.
        keys: identity of each client, 32 bytes.
    """

    population: str
    superlink: str
    authority: bytes
    keys: Mapping[int, bytes]

    def dumps(self) -> bytes:
        """The federation file."""
        return files.dumps(
            {
                "version": VERSION,
                "population": self.population,
                "superlink": self.superlink,
                "authority": self.authority.decode(),
                "directory": {str(k): key.hex() for k, key in sorted(self.keys.items())},
            }
        )

    def fingerprint(self) -> str:
        """SHA-256 of the file, in hex, to compare over another channel."""
        return hashlib.sha256(self.dumps()).hexdigest()

    @classmethod
    def load(cls, path: Path) -> Federation:
        """Reads a federation file.

        Raises:
            StorageError: it can't be read, or isn't one.
        """
        found = files.read_json(path, "`tacit deploy collect` makes it at the coordinator")
        try:
            if found["version"] != VERSION:
                raise ValueError(f"version={found['version']}")
            keys = {int(k): bytes.fromhex(key) for k, key in found["directory"].items()}
            PinnedDirectory(keys)
            made = cls(
                str(found["population"]), str(found["superlink"]), found["authority"].encode(), keys
            )
        except (AttributeError, KeyError, TypeError, ValueError, ConfigError) as error:
            raise StorageError(f"{path} isn't a federation file: {error!r}") from error
        certificates.parse(made.authority, f"the authority in {path}")
        return made


class CoordinatorFolder:
    """Where a coordinator keeps what its processes need.

    Attributes:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.authority = root / "authority" / "ca.key"
        self.root_certificate = root / "ca.crt"
        self.key = root / "superlink.key"
        self.certificate = root / "superlink.crt"
        self.secret = root / "superexec.secret"
        self.nodes = root / "nodes"
        self.home = root / "home"
        self.directory = self.home / "clients" / "directory.json"
        self.federation = root / "federation.json"
        self.state = root / "state"

    def settings(self) -> Settings:
        """What it was made for.

        Raises:
            StorageError: it isn't a coordinator's folder.
        """
        path = self.root / "settings.json"
        found = files.read_json(path, "`tacit deploy coordinator` makes it")
        try:
            return Settings(**found)
        except TypeError as error:
            raise StorageError(f"{path} isn't a coordinator's settings: {error}") from error


def make(root: Path, settings: Settings) -> CoordinatorFolder:
    """Authority, certificate and secret of a coordinator, or those that are there already.

    Raises:
        ConfigError: the folder was made for something else.
        StorageError: it can't be written.
    """
    place = CoordinatorFolder(root)
    for made in (root, place.authority.parent, place.nodes, place.home, place.state):
        files.folder(made)
    files.folder(place.directory.parent)
    files.create(root / "settings.json", files.dumps(_fields(settings)), files.PUBLIC)
    known = place.settings()
    if known != settings:
        raise ConfigError(
            f"{root} was made for {_fields(known)}, not for {_fields(settings)}",
            "choose another folder, or the same values",
        )
    if not place.authority.exists() and not place.root_certificate.exists():
        made_pair = certificates.authority(settings.population)
        files.create(place.authority, made_pair.key)
        files.create(place.root_certificate, made_pair.certificate, files.PUBLIC)
    if not place.certificate.exists():
        renew(place)
    files.create(place.secret, secrets.token_bytes(32))
    return place


def renew(place: CoordinatorFolder) -> None:
    """Issues the SuperLink another certificate, with another key; restart it afterwards.

    Raises:
        StorageError: the authority's key isn't here.
    """
    hint = "put the authority's key back for as long as this takes"
    signer = Pair(files.read(place.authority, hint), files.read(place.root_certificate, hint))
    made = certificates.issue(signer, place.settings().hosts)
    # The key first: with the old certificate beside it, the SuperLink doesn't start.
    files.replace(place.key, made.key, files.SECRET)
    files.replace(place.certificate, made.certificate)


def collect(place: CoordinatorFolder, handed: Sequence[PublicParts]) -> Federation:
    """Takes silos in: their node keys to register, the directory, the federation file.

    Args:
        place: of the coordinator.
        handed: public parts; clients that were collected before may be left out.

    Raises:
        ConfigError: another population's, a client that has another key already, or a key that
            another client has.
    """
    settings = place.settings()
    known: dict[int, bytes] = {}
    if place.federation.exists():
        known = dict(Federation.load(place.federation).keys)
    nodes = {int(p.stem): files.read(p).decode().strip() for p in place.nodes.glob("*.pub")}
    for parts in handed:
        if parts.population != settings.population:
            raise ConfigError(
                f"client {parts.client} was made for population={parts.population!r}, "
                f"not for {settings.population!r}"
            )
        same = (known.get(parts.client, parts.identity), nodes.get(parts.client, parts.node))
        if same != (parts.identity, parts.node):
            raise ConfigError(
                f"client {parts.client} has another key already",
                "a key isn't replaced; give the silo another number",
            )
        known[parts.client], nodes[parts.client] = parts.identity, parts.node
    if len(set(nodes.values())) != len(nodes):
        raise ConfigError("two clients have one node key", "each SuperNode needs its own")
    PinnedDirectory(known).save(place.directory)
    for client, node in nodes.items():
        files.replace(place.nodes / f"{client}.pub", f"{node}\n".encode())
    root = files.read(place.root_certificate)
    made = Federation(settings.population, settings.superlink, root, known)
    files.replace(place.federation, made.dumps())
    return made


def join(root: Path, federation: Federation) -> int:
    """Pins a federation in a silo's folder; returns the silo's client number.

    Joining again takes in clients that were added.

    Raises:
        ConfigError: the silo isn't in it, or something that is pinned differs.
    """
    place = SiloFolder(root)
    own = PublicParts.load(place.public)
    if own.population != federation.population:
        raise ConfigError(
            f"this silo was made for population={own.population!r}, "
            f"not for {federation.population!r}"
        )
    if federation.keys.get(own.client) != identity_of(root, own.client).public:
        raise ConfigError(
            f"the federation's key of client {own.client} isn't this silo's",
            "was its public parts file collected?",
        )
    if place.federation.exists():
        pinned = Federation.load(place.federation)
        if pinned.authority != federation.authority:
            raise ConfigError("the federation has another authority than the one pinned here")
        changed = [k for k, key in pinned.keys.items() if federation.keys.get(k) != key]
        if changed:
            raise ConfigError(
                f"the federation has other keys than those pinned here, of clients {changed}",
                "ask who changed them, and why, before anything else",
            )
    PinnedDirectory(federation.keys).save(place.home / "directory.json")
    files.replace(root / "ca.crt", federation.authority)
    files.replace(place.federation, federation.dumps())
    return own.client


def _fields(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in Settings.__dataclass_fields__}
