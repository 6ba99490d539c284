"""A home in one file, taken while runs go on.

Guarantees: a backup is one state of the ledger with the models, states and keys that belong to
it; it is there whole and was verified, or not at all. `tacit.server.restore` puts it back.

It holds secrets, whether or not it holds keys: who was drawn, and what opens commitments. It
isn't encrypted; only its owner can read it. Vaults, ledgers and keys of clients are never in it:
a client that forgot what it answered could answer otherwise.

For SQLite; PostgreSQL's own tools back that up (`docs/operate.md`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy.errors import ConfigError, StorageError
from tacit.server import keys
from tacit.server import log as logs
from tacit.server import tables as t
from tacit.server.database import is_sqlite
from tacit.server.home import Home, explained
from tacit.server.registry import ModelRegistry
from tacit.server.restore import (
    FORMAT,
    MANIFEST,
    NAME,
    Hashing,
    private,
    sync,
    unpacked,
    verified,
)
from tacit.server.state import file_of
from tacit.server.store import Store


def make(store: Store, to: str, with_keys: bool = True) -> dict[str, Any]:
    """Writes a backup and verifies it.

    Writers of the ledger wait while the database is copied.

    Args:
        store: of the home.
        to: a file that isn't there yet.
        with_keys: whether the ledger's key, and others of the home, go along.

    Returns:
        ``path``, its ``sha256`` and ``bytes``, the number of ``leaves`` and of ``files``.

    Raises:
        ConfigError: the home's database is PostgreSQL.
        StorageError: the file can't be written, or the home doesn't hold.
    """
    if not is_sqlite(store.database.url):
        raise ConfigError(
            f"database={store.database.url.render_as_string()} isn't in the home",
            "pg_dump backs it up; docs/operate.md says in which order",
        )
    path = Path(to).absolute()
    if path.exists():
        raise StorageError(f"{path} is there already", "choose another name, or remove it")
    with (
        explained(f"{path} can't be written"),
        tempfile.TemporaryDirectory(prefix=".backup-", dir=path.parent) as scratch,
    ):
        part = Path(scratch) / "part"
        with open(part, "xb", opener=private) as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                manifest = _written(store, _Files(tar), Path(scratch), with_keys)
            file.flush()
            os.fsync(file.fileno())
        with unpacked(part, Path(scratch) / "trial", store.home.signing_key) as trial:
            verified(trial, [manifest["checkpoint"]])
        os.replace(part, path)
        sync(path.parent)
    return {
        "path": str(path),
        "sha256": _sha256(path),
        "bytes": path.stat().st_size,
        "leaves": manifest["leaves"],
        "files": len(manifest["files"]),
    }


class _Files:
    """The files of an archive, with their digests."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.written: dict[str, dict[str, Any]] = {}

    def add(self, name: str, path: Path) -> None:
        """Adds a file under a name."""
        if not NAME.fullmatch(name):
            raise StorageError(f"{path} has a name that no file of a home has", "move it away")
        with path.open("rb") as file:
            info = tarfile.TarInfo(name)
            info.size, info.mode = os.fstat(file.fileno()).st_size, 0o600
            hashing = Hashing(file)
            self._tar.addfile(info, hashing)
        self.written[name] = {"sha256": hashing.sha256.hexdigest(), "size": info.size}

    def close(self, manifest: dict[str, Any], scratch: Path) -> None:
        """Adds the manifest, the last: an archive without it is a piece of one."""
        path = scratch / MANIFEST
        path.write_text(json.dumps({**manifest, "files": self.written}))
        self._tar.add(path, MANIFEST)


def _written(store: Store, files: _Files, scratch: Path, with_keys: bool) -> dict[str, Any]:
    home = store.home
    # Nobody rotates the key, commits, or forgets a state that is still named, meanwhile.
    with home.lock(keys.LOCK), store.database.writing() as c:
        files.add("tacit.db", _snapshot(home, scratch))
        manifest = {
            "format": FORMAT,
            "tacit": version("tacit"),
            "at": logs.now(),
            "leaves": logs.size(c),
            "checkpoint": logs.newest_checkpoint(c),
            "keys": with_keys,
        }
        artifacts = [row.artifact for row in c.execute(sa.select(t.versions.c.artifact).distinct())]
        for path in _of_runs(home, c):
            files.add(path.relative_to(home.root).as_posix(), path)
        for path in sorted(home.keys.rglob("*")) if with_keys else []:
            if path.is_file() and not path.name.startswith(".") and path.suffix != ".lock":
                files.add(path.relative_to(home.root).as_posix(), path)
        for name in ("gateway.json", "clients/directory.json"):
            if (home.root / name).is_file():
                files.add(name, home.root / name)
    registry = ModelRegistry(home, store)
    for digest in artifacts:
        path = registry.path(digest)
        files.add(path.relative_to(home.root).as_posix(), path)
    files.close(manifest, scratch)
    return {**manifest, "files": files.written}


def _snapshot(home: Home, scratch: Path) -> Path:
    """One state of the database, as SQLite's own copy."""
    copy = scratch / "tacit.db"
    os.close(private(str(copy), os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    with (
        contextlib.closing(sqlite3.connect(home.database)) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
    return copy


def _of_runs(home: Home, c: Connection) -> Iterator[Path]:
    """The files of each run: reports, and of states the one that it goes on from."""
    for row in c.execute(sa.select(t.runs.c.id, t.runs.c.state)):
        folder = home.runs / row.id
        current = file_of(folder, row.state) if row.state else None
        for path in sorted(folder.rglob("*")):
            passing = path.name == "lock" or path.name.startswith((".", "state-"))
            if path == current or (path.is_file() and not passing):
                yield path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
