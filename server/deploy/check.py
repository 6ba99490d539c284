"""What is wrong with a coordinator's or a silo's folder, before anything is started.

Guarantees: every finding is named with what to do; nothing is changed. A *problem* keeps the
deployment from working or a secret from being one; a *warning* will become a problem, or is
better otherwise. No finding doesn't mean that the network is right, only the files.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tacit.privacy.errors import StorageError, TacitError
from tacit.privacy.secagg.directory import PinnedDirectory, key_path
from tacit.server.deploy import certificates, files, silo
from tacit.server.deploy.certificates import Pair
from tacit.server.deploy.coordinator import CoordinatorFolder, Federation
from tacit.server.deploy.silo import PublicParts, SiloFolder

SOON_DAYS = 30


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that isn't as it should be.

    Attributes:
        where: a folder or a file.
        what: is wrong, and what to do.
        problem: whether it must be mended, or is a warning.
    """

    where: Path
    what: str
    problem: bool = True


class Findings:
    """Collects findings; a check that can't be made is one itself."""

    def __init__(self) -> None:
        self.all: list[Finding] = []

    def add(self, where: Path, what: str, problem: bool = True) -> None:
        """Notes one."""
        self.all.append(Finding(where, what, problem))

    def tried(self, where: Path, check: Callable[[], None]) -> None:
        """Runs a check; an error of tacit's is a finding."""
        try:
            check()
        except TacitError as error:
            self.add(where, str(error))

    def secret(self, path: Path) -> bool:
        """Notes a secret that is missing, or that others can read; says whether it is there."""
        if not path.exists():
            self.add(path, "is missing")
            return False
        if files.rights(path) & 0o077:
            self.add(path, f"is open to others ({files.rights(path):o}): chmod 600")
        return True


def check(root: Path) -> list[Finding]:
    """Checks a coordinator's folder, a silo's, or one that has both kinds in it.

    Raises:
        StorageError: it is none of these.
    """
    found = Findings()
    kinds = [p for p in (root, *sorted(root.glob("*/"))) if p.is_dir()]
    places = [p for p in kinds if (p / "settings.json").exists() or (p / "public.json").exists()]
    if not places:
        raise StorageError(
            f"{root} has no coordinator's or silo's folder", "`tacit deploy init` makes both"
        )
    for place in places:
        coordinator = (place / "settings.json").exists()
        found.tried(place, functools.partial(_coordinator if coordinator else _silo, found, place))
    return found.all


def _coordinator(found: Findings, root: Path) -> None:
    place = CoordinatorFolder(root)
    settings = place.settings()
    _folder(found, root)
    found.secret(place.secret)
    for path in (place.root_certificate, place.certificate):
        if not path.exists():
            found.add(path, "is missing")
    if place.authority.exists():
        found.secret(place.authority)
        found.add(place.authority, "is better kept off this machine", problem=False)
    if found.secret(place.key) and place.certificate.exists() and place.root_certificate.exists():
        found.tried(place.certificate, lambda: _certificates(found, place, settings.hosts))
    for strange in root.rglob("node.key"):
        found.add(strange, "is a silo's secret, and has no place here")
    _collected(found, place)


def _collected(found: Findings, place: CoordinatorFolder) -> None:
    if not place.federation.exists():
        found.add(place.federation, "is missing: `tacit deploy collect` makes it")
        return
    federation = Federation.load(place.federation)
    if federation.authority != files.read(place.root_certificate):
        found.add(place.federation, "has another authority than ca.crt: collect again")
    directory = PinnedDirectory.load(place.directory)
    if directory.digest() != PinnedDirectory(federation.keys).digest():
        found.add(place.directory, "isn't the federation's: collect again")
    for client in federation.keys:
        path = place.nodes / f"{client}.pub"
        found.tried(path, functools.partial(_node, path))
    missing = sorted(set(range(max(federation.keys, default=-1) + 1)) - set(federation.keys))
    if missing:
        found.add(place.federation, f"has no client {missing}: numbers run from 0", problem=False)


def _certificates(found: Findings, place: CoordinatorFolder, hosts: list[str]) -> None:
    root = files.read(place.root_certificate)
    pair = Pair(files.read(place.key), files.read(place.certificate))
    for what in certificates.problems(pair, root, hosts):
        found.add(place.certificate, f"{what}: `tacit deploy renew`")
    for path, certificate in (
        (place.certificate, pair.certificate),
        (place.root_certificate, root),
    ):
        _expiry(found, path, certificate)


def _silo(found: Findings, root: Path) -> None:
    place = SiloFolder(root)
    own = PublicParts.load(place.public)
    _folder(found, root)
    _folder(found, place.home)
    wanted = [key_path(place.home, own.client), place.node_key, place.secret]
    wanted += sorted(place.home.glob("*.vault"))
    there = [found.secret(path) for path in wanted]
    if not all(there):
        return
    if silo.identity_of(root, own.client).public != own.identity:
        found.add(key_path(place.home, own.client), "isn't the key in public.json")
    if silo.node_of(root) != own.node:
        found.add(place.node_key, "isn't the key in public.json")
    others = [k for k in place.clients() if k != own.client]
    for path in [key_path(place.home, k) for k in others]:
        found.add(path, "is another client's secret, and has no place here")
    if not place.federation.exists():
        found.add(place.federation, "is missing: `tacit deploy join` pins it", problem=False)
        return
    _pinned(found, place, own)


def _pinned(found: Findings, place: SiloFolder, own: PublicParts) -> None:
    federation = Federation.load(place.federation)
    if federation.keys.get(own.client) != own.identity:
        found.add(place.federation, f"has another key for client {own.client}: was it collected?")
    directory = place.home / "directory.json"
    if PinnedDirectory.load(directory).digest() != PinnedDirectory(federation.keys).digest():
        found.add(directory, "isn't the federation's: join again")
    certificate = files.read(place.root / "ca.crt", "join again")
    if certificate != federation.authority:
        found.add(place.root / "ca.crt", "isn't the federation's: join again")
    _expiry(found, place.root / "ca.crt", certificate)


def _folder(found: Findings, path: Path) -> None:
    if not path.is_dir():
        found.add(path, "is missing")
    elif files.rights(path) & 0o077:
        found.add(path, f"is open to others ({files.rights(path):o}): chmod 700")


def _expiry(found: Findings, path: Path, certificate: bytes) -> None:
    left = certificates.days_left(certificate)
    if left <= 0:
        found.add(path, "has expired: `tacit deploy renew`")
    elif left < SOON_DAYS:
        found.add(path, f"expires in {left:.0f} days: `tacit deploy renew`", problem=False)


def _node(path: Path) -> None:
    silo.node_public(files.read(path, "collect again"), str(path))
