"""Model versions: safetensors files named by their digest, and what is known of each.

Guarantees: `ModelRegistry.load` and `verified` give a version only if its file has the bytes whose
SHA-256 its row names, the row says what the RELEASE and PLAN leaves say, those leaves are under a
checkpoint signed with the ledger's key, and so is the envelope that says it once more
(`tacit.server.attestations`). A byte changed in any of them is an error.
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
from tacit.server import attestations
from tacit.server import tables as t
from tacit.server.home import Home, explained, write_durably
from tacit.server.store import Row, Store

Arrays = Mapping[str, np.ndarray]
_HINT = "tacit models list shows what is"


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

    @property
    def store(self) -> Store:
        """Where the rows are."""
        return self._store

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

    def envelope(self, row: Row) -> str:
        """A version's attestation, once row, leaves and signature agree; not its file.

        Raises:
            StorageError: they don't.
        """
        with self._store.database.reading() as c:
            return attestations.check(c, self._store.signer.verifier, row)

    def verified(self, row: Row) -> bytes:
        """The bytes of a version, with all that binds them checked.

        Raises:
            StorageError: file, row, leaf or attestation isn't what was released.
        """
        self.envelope(row)
        return self.data(row["artifact"])

    def load(self, row: Row) -> dict[str, np.ndarray]:
        """The arrays of a version that is to be used; raises as `verified`."""
        self.envelope(row)
        return self.get(row["artifact"])

    def find(self, reference: str) -> Row:
        """A version by ``NAME@NUMBER``, ``NAME@ALIAS``, ``NAME`` (its newest) or a digest's prefix.

        Raises:
            MissingError: there is none; it says whether the model, the number or the alias is
                what isn't there.
        """
        name, at, version = reference.partition("@")
        if not at:
            found = self._store.versions(name=name)
            if not found and len(reference) >= 8:
                rows = self._store.versions()
                found = [row for row in rows if row["artifact"].startswith(reference)]
        elif version.removeprefix("v").isdecimal():
            # A number beyond the column's is no version's.
            number = int(version.removeprefix("v")[:19])
            found = self._store.versions(name=name, number=number) if number < 2**31 else []
        else:
            return self._aliased(name, version)
        if not found:
            raise self._missing(name, f"model={reference[:200]} isn't in this home")
        return found[-1]

    def _aliased(self, name: str, alias: str) -> Row:
        """The version that an alias names."""
        of = t.moves.c
        query = sa.select(of.number, of.leaf).where(of.model == name, of.alias == alias)
        with self._store.database.reading() as c:
            move = c.execute(query.order_by(of.leaf.desc()).limit(1)).first()
        if move is None:
            raise self._missing(name, f"{name[:200]} has no alias={alias[:80]!r}")
        if move.number is None:
            raise MissingError(
                f"{name}@{alias} names no version since leaf {move.leaf}",
                f"tacit models history {name} shows its moves",
            )
        return self._store.versions(name=name, number=move.number)[-1]

    def _missing(self, name: str, problem: str) -> MissingError:
        """What isn't there, with what is."""
        numbers = [row["number"] for row in self._store.versions(name=name)]
        if not numbers:
            return MissingError(f"model={name[:200]} isn't in this home", _HINT)
        return MissingError(problem, f"it has versions 1 to {numbers[-1]}; {_HINT}")

    def list(self, name: str | None = None) -> list[Row]:
        """All versions, or those of one model, oldest first."""
        where: dict[str, Any] = {} if name is None else {"name": name}
        return self._store.versions(**where)
