"""Model versions: safetensors files named by their digest, and what is known of each.

Guarantees: a version's file holds exactly the bytes whose SHA-256 the ledger's RELEASE leaf
names, checked at every load; a changed byte is an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import sqlalchemy as sa
from safetensors import SafetensorError

from tacit.privacy.errors import MissingError, StorageError
from tacit.server import tables as t
from tacit.server.home import Home, explained, write_durably
from tacit.server.store import Row, Store

Arrays = Mapping[str, np.ndarray]


def encode(arrays: Arrays) -> bytes:
    """Named arrays as safetensors; equal arrays give equal bytes."""
    ordered = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    return bytes(safetensors.numpy.save(ordered))


class ModelRegistry:
    """The versions of a home.

    Args:
        home: where the files are.
        store: where the rows are.
    """

    def __init__(self, home: Home, store: Store) -> None:
        self._home, self._store = home, store

    def path(self, digest: str) -> Path:
        """Where the artifact of this SHA-256 is."""
        return self._home.artifacts / digest[:2] / f"{digest}.safetensors"

    def put(self, arrays: Arrays) -> str:
        """Stores arrays durably and returns their digest; storing them again is free."""
        data = encode(arrays)
        digest = hashlib.sha256(data).hexdigest()
        path = self.path(digest)
        with explained(f"{path.parent} can't be written"):
            path.parent.mkdir(mode=0o700, exist_ok=True)
        if not path.exists() or path.stat().st_size != len(data):
            write_durably(path, data)
        return digest

    def data(self, digest: str) -> bytes:
        """The artifact's bytes.

        Raises:
            StorageError: the file is gone, or isn't what was stored.
        """
        path = self.path(digest)
        with explained(f"artifact {path} can't be read"):
            data = path.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            raise StorageError(
                f"artifact {path} is corrupted: its SHA-256 is {found[:12]}...",
                "restore it from a backup; its name is the digest it must have",
            )
        return data

    def get(self, digest: str) -> dict[str, np.ndarray]:
        """The artifact's arrays; raises as `data`."""
        data = self.data(digest)
        try:
            return dict(safetensors.numpy.load(data))
        except SafetensorError as error:
            raise StorageError(f"artifact {digest} isn't safetensors: {error}") from error

    def find(self, reference: str) -> Row:
        """A version by ``NAME@NUMBER``, ``NAME@ALIAS``, ``NAME`` (its newest) or a digest's prefix.

        Raises:
            MissingError: there is none.
        """
        name, at, number = reference.partition("@")
        if at and number.removeprefix("v").isdigit():
            found = self._store.versions(name=name, number=int(number.removeprefix("v")))
        elif at:
            found = self._aliased(name, number)
        else:
            found = self._store.versions(name=name)
            if not found and len(reference) >= 8:
                rows = self._store.versions()
                found = [row for row in rows if row["artifact"].startswith(reference)]
        if not found:
            raise MissingError(
                f"model={reference} isn't in this home", "tacit models list shows what is"
            )
        return found[-1]

    def _aliased(self, name: str, alias: str) -> list[Row]:
        """The version that an alias names; none if it names none."""
        query = sa.select(t.moves.c.number).where(t.moves.c.model == name, t.moves.c.alias == alias)
        with self._store.database.reading() as c:
            number = c.execute(query.order_by(t.moves.c.leaf.desc()).limit(1)).scalar()
        return [] if number is None else self._store.versions(name=name, number=number)

    def list(self, name: str | None = None) -> list[Row]:
        """All versions, or those of one model, oldest first."""
        where: dict[str, Any] = {} if name is None else {"name": name}
        return self._store.versions(**where)
