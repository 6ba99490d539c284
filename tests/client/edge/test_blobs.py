"""Downloads: whole or not at all, and no byte twice."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tacit.client.edge.blobs import Blobs, Source
from tacit.client.edge.link import LinkError
from tacit.privacy.errors import MessageError, StorageError

DATA = os.urandom(100_000)
DIGEST = hashlib.sha256(DATA).digest()


class Sender:
    """Sends a blob from an offset on, and breaks off after so many bytes."""

    def __init__(self, data: bytes, breaks: int | None = None) -> None:
        self.data, self.breaks, self.offsets = data, breaks, list[int]()

    async def __call__(self, offset: int) -> AsyncIterator[bytes]:
        self.offsets.append(offset)
        end = len(self.data) if self.breaks is None else offset + self.breaks
        for at in range(offset, min(end, len(self.data)), 1000):
            yield self.data[at : min(at + 1000, end)]
        if end < len(self.data):
            raise LinkError("broken")


def fetch(blobs: Blobs, source: Source, digest: bytes = DIGEST, size: int = len(DATA)) -> None:
    asyncio.run(blobs.fetch(digest, size, source))


def test_a_download_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    sender = Sender(DATA, breaks=30_500)
    for _ in range(3):
        # A process of its own each time.
        with pytest.raises(LinkError):
            fetch(Blobs(tmp_path / "blobs", 10**6, 10**6), sender)
    blobs = Blobs(tmp_path / "blobs", 10**6, 10**6)
    fetch(blobs, sender)
    assert sender.offsets == [0, 30_500, 61_000, 91_500]
    assert blobs.read(DIGEST) == DATA
    fetch(blobs, sender)
    assert len(sender.offsets) == 4, "it is here"
    blobs.drop(DIGEST)
    with pytest.raises(StorageError):
        blobs.read(DIGEST)


def test_what_is_another_blob_is_dropped(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path, 10**6, 10**6)
    sender = Sender(bytes(len(DATA)))
    with pytest.raises(MessageError, match="another one"):
        fetch(blobs, sender)
    assert sender.offsets == [0, 0]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(MessageError, match="longer than"):
        fetch(blobs, Sender(DATA + b"x"))
    # A part that was tampered with is dropped, and the blob comes anew.
    (tmp_path / f"{DIGEST.hex()}.part").write_bytes(bytes(5000))
    sender = Sender(DATA)
    fetch(blobs, sender)
    assert sender.offsets == [5000, 0]
    (tmp_path / f"{DIGEST.hex()}.blob").write_bytes(DATA[:-1])
    with pytest.raises(MessageError, match="isn't what it was"):
        blobs.read(DIGEST)
    assert list(tmp_path.iterdir()) == []


def test_sizes_are_bounded(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path, 1000, 2500)
    with pytest.raises(MessageError, match="more than the 1000"):
        fetch(blobs, Sender(DATA))
    with pytest.raises(MessageError, match="another length"):
        fetch(blobs, Sender(DATA), b"short", 10)
    parts = [DATA[i : i + 1000] for i in range(0, 4000, 1000)]
    digests = [hashlib.sha256(part).digest() for part in parts]
    for i, (part, digest) in enumerate(zip(parts, digests, strict=True)):
        fetch(blobs, Sender(part), digest, 1000)
        os.utime(tmp_path / f"{digest.hex()}.blob", (i, i))
    kept = [digest for digest in digests if (tmp_path / f"{digest.hex()}.blob").exists()]
    assert kept == digests[2:], "the oldest went"


def test_two_who_want_one_blob_get_it_once(tmp_path: Path) -> None:
    blobs, sender = Blobs(tmp_path, 10**6, 10**6), Sender(DATA)

    async def both() -> None:
        await asyncio.gather(*(blobs.fetch(DIGEST, len(DATA), sender) for _ in range(5)))

    asyncio.run(both())
    assert sender.offsets == [0]
    assert blobs.read(DIGEST) == DATA


def test_what_was_broken_off_counts(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path, 1000, 2500)
    parts = [os.urandom(1000) for _ in range(6)]
    digests = [hashlib.sha256(part).digest() for part in parts]
    for i, (part, digest) in enumerate(zip(parts, digests, strict=True)):
        with pytest.raises(LinkError):
            fetch(blobs, Sender(part, breaks=999), digest, 1000)
        os.utime(tmp_path / f"{digest.hex()}.part", (i, i))
    assert {p.stem for p in tmp_path.iterdir()} == {digest.hex() for digest in digests[-2:]}
    # What is on the way isn't dropped for what comes beside it, nor for itself.
    fetch(blobs, Sender(parts[4]), digests[4], 1000)
    assert blobs.read(digests[4]) == parts[4]
