"""Downloads by SHA-256, on disk, that go on where they were broken off.

Guarantees: `Blobs.read` gives bytes of the digest that was asked for or raises; what is on the
way is in a file of its own, kept over a broken connection and a restart, and dropped if the
whole turns out to be another. No more than ``limit`` bytes are taken of a sender, and no more
than ``cache`` kept, what was broken off included: what wasn't used for longest goes first.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from tacit.privacy.errors import MessageError, StorageError

_BLOCK = 1024 * 1024
_TRIES = 2
# From an offset on, the bytes of a blob.
Source = Callable[[int], AsyncIterator[bytes]]


class Blobs:
    """A folder of blobs.

    Args:
        folder: made when something is kept.
        limit: bytes of the largest one.
        cache: bytes of all together.
    """

    def __init__(self, folder: Path, limit: int, cache: int) -> None:
        self._folder, self._limit, self._cache = folder, limit, cache
        self._coming: dict[bytes, asyncio.Lock] = {}

    def read(self, digest: bytes) -> bytes:
        """A blob that is here.

        Raises:
            StorageError: it isn't, or can't be read.
            MessageError: the file was changed.
        """
        path = self._path(digest)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError as error:
            raise StorageError(f"blob {path.name[:12]} can't be read: {error.strerror}") from error
        if hashlib.sha256(data).digest() != digest:
            with contextlib.suppress(OSError):
                path.unlink()
            raise MessageError(f"blob {path.name[:12]} isn't what it was")
        return data

    async def fetch(self, digest: bytes, size: int, source: Source) -> None:
        """Sees to it that a blob is here.

        Args:
            digest: SHA-256, 32 bytes.
            size: of the blob.
            source: gives its bytes; called with how many are here already.

        Raises:
            MessageError: what came is another blob, or longer than announced, or the blob is
                larger than this device takes.
            StorageError: it can't be written.
        """
        if len(digest) != hashlib.sha256().digest_size:
            raise MessageError("a blob's digest has another length")
        if size > self._limit:
            raise MessageError(f"a blob of {size} bytes is more than the {self._limit} allowed")
        path = self._path(digest)
        # Two who want one blob don't write into one file.
        async with self._coming.setdefault(digest, asyncio.Lock()):
            for _ in range(_TRIES):
                if path.exists() or await self._more(path, digest, size, source):
                    self._coming.pop(digest, None)
                    return
        raise MessageError(f"blob {path.name[:12]} came as another one")

    async def _more(self, path: Path, digest: bytes, size: int, source: Source) -> bool:
        """Whether the rest came, and the whole is the one asked for."""
        part = path.with_suffix(".part")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._room(path, size)
            have = min(part.stat().st_size, size) if part.exists() else 0
            file = os.open(part, os.O_RDWR | os.O_CREAT, 0o600)
            with open(file, "r+b") as out:
                out.truncate(have)
                out.seek(have)
                if have < size:
                    async for chunk in source(have):
                        have += len(chunk)
                        if have > size:
                            raise MessageError("a blob is longer than was announced")
                        out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
                if have < size:
                    return False
                out.seek(0)
                found = hashlib.sha256()
                while block := out.read(_BLOCK):
                    found.update(block)
            if found.digest() != digest:
                part.unlink()
                return False
            part.replace(path)
        except OSError as error:
            raise StorageError(f"{part} can't be written: {error.strerror}") from error
        return True

    def drop(self, digest: bytes) -> None:
        """Removes a blob that isn't needed again."""
        with contextlib.suppress(OSError):
            self._path(digest).unlink()

    def _room(self, wanted: Path, size: int) -> None:
        """Makes room for a blob of so many bytes; what was broken off counts.

        What is being fetched now stays, the blob itself included.
        """
        coming = {digest.hex() for digest, lock in self._coming.items() if lock.locked()}
        kept = []
        for path in self._folder.iterdir():
            if path.suffix not in (".blob", ".part") or path.stem in coming | {wanted.stem}:
                continue
            with contextlib.suppress(OSError):
                kept.append((path.stat().st_mtime, path.stat().st_size, path))
        total = size + sum(length for _, length, _ in kept)
        for _, length, path in sorted(kept):
            if total <= self._cache:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= length

    def _path(self, digest: bytes) -> Path:
        return self._folder / f"{digest.hex()}.blob"
