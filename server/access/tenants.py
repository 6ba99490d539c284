"""Tenants: each with a home of its own, so a ledger, a key, a database and artifacts of its own.

Guarantees: a tenant's store is opened in its own home and is the only one that is, so that none
ever answers for another; ``TACIT_DATABASE``, which is one database, isn't any tenant's. A name
can't lead out of the root, nor can a link in its place.

A root that is itself a home has one tenant, `DEFAULT`, and can't have others beside it: who has
the root has all that lies under it. Tenants share the machine, its user and its disk; nothing
here keeps one from filling that.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from tacit.privacy.errors import ConfigError, MissingError, StorageError
from tacit.server.home import Home, explained
from tacit.server.store import Store

DEFAULT = "default"
NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
FOLDER = "tenants"
_LEDGER = ("tacit.db", "database.url")


def check_name(name: str) -> str:
    """A tenant's name.

    Raises:
        ConfigError: it can't be one.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"tenant={name[:80]!r} must be a lower-case letter, then up to 62 of a-z, 0-9 and -"
        )
    return name


class Tenants:
    """The tenants under a root.

    Args:
        root: a folder of tenants, or one home.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).absolute()

    @property
    def single(self) -> bool:
        """Whether the root is a home, whose one tenant is `DEFAULT`."""
        return _begun(self.root)

    def list(self) -> list[str]:
        """Their names, in order."""
        if self.single:
            return [DEFAULT]
        folder = self.root / FOLDER
        if not folder.is_dir():
            return []
        with explained(f"{folder} can't be read"):
            found = sorted(folder.iterdir())
        return [p.name for p in found if NAME.fullmatch(p.name) and self._whole(p)]

    def create(self, name: str, database: str | None = None) -> Home:
        """Makes a tenant, with an empty ledger and its key.

        What was begun and broke off is finished by trying again.

        Args:
            name: of the tenant.
            database: URL of a PostgreSQL database that is nobody else's; None for SQLite.

        Raises:
            ConfigError: the name can't be one, or the root is a home itself.
            StorageError: it is there already, or can't be made.
        """
        check_name(name)
        if self.single:
            raise ConfigError(
                f"tenant={name}: {self.root} is the home of one tenant itself",
                "choose another root for several",
            )
        folder = self.root / FOLDER / name
        if _begun(folder):
            raise StorageError(f"tenant={name} is there already")
        with explained(f"{folder} can't be made"):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.parent.mkdir(mode=0o700, exist_ok=True)
        home = self._home(folder, database)
        Store(home).close()
        return home

    def home(self, name: str) -> Home:
        """A tenant's home.

        Raises:
            MissingError: there is no such tenant.
        """
        if self.single:
            if name != DEFAULT:
                raise _missing(name)
            return Home(self.root)
        folder = self.root / FOLDER / name
        if not NAME.fullmatch(name) or not self._whole(folder):
            raise _missing(name)
        return self._home(folder, None)

    def _home(self, folder: Path, database: str | None) -> Home:
        if folder.is_symlink() or folder.parent.is_symlink():
            raise StorageError(f"{folder} is a link", "a tenant's home is a folder of the root")
        home = Home(folder, database)
        # Whatever TACIT_DATABASE says: it would be the same for all of them.
        home.url = database or _remembered(home)
        return home

    @staticmethod
    def _whole(folder: Path) -> bool:
        return _begun(folder) and not folder.is_symlink()


def _begun(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _LEDGER)


def _remembered(home: Home) -> str | None:
    if not home.remembered.is_file():
        return None
    with explained(f"{home.remembered} can't be read"):
        return home.remembered.read_text().strip()


def _missing(name: str) -> MissingError:
    return MissingError(f"tenant={name[:80]!r} isn't there", "tacit access tenant list shows them")
