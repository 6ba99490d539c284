"""A bundle: a whole ledger in one file, for somebody who has neither our database nor our code.

JSON Lines, UTF-8. The first line names the format and holds the newest checkpoint; then one
line a leaf, exactly the bytes that are hashed; then one a model, its bytes in base64, if they
were asked for; the last is the SHA-256 of all bytes before it.

Guarantees: a changed byte anywhere is a `MessageError` or changes what a verifier computes.
It doesn't guarantee who made it: that is the checkpoint's signature.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import rfc8785

from tacit.privacy.errors import MessageError, StorageError
from tacit.privacy.log.notes import signed

VERSION = 1


def write(
    file: IO[bytes], checkpoint: str, texts: Iterable[str], artifacts: Iterable[tuple[str, bytes]]
) -> str:
    """Writes a bundle.

    Args:
        file: open for writing.
        checkpoint: the signed note over all leaves.
        texts: leaves in order, canonical JSON.
        artifacts: digest and bytes of the models that go along.

    Returns:
        SHA-256 of all but the last line, in hex: the bundle's name.
    """
    hasher = hashlib.sha256()

    def line(data: bytes) -> None:
        hasher.update(data + b"\n")
        file.write(data + b"\n")

    line(rfc8785.dumps({"tacit": "bundle", "version": VERSION, "checkpoint": checkpoint}))
    for text in texts:
        line(text.encode())
    for digest, data in artifacts:
        line(rfc8785.dumps({"artifact": digest, "data": base64.b64encode(data).decode()}))
    file.write(rfc8785.dumps({"sha256": hasher.hexdigest()}) + b"\n")
    return hasher.hexdigest()


class Bundle:
    """A bundle being read.

    Args:
        path: of the file.

    Raises:
        StorageError: it can't be read.
        MessageError: it isn't a bundle, or a byte of it was changed.

    Attributes:
        checkpoint: the signed note.
        sha256: the bundle's name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        first, last, self.sha256 = self._ends()
        header = _object(first, "the first line")
        if set(header) != {"tacit", "version", "checkpoint"} or header["tacit"] != "bundle":
            raise MessageError(f"{path} isn't a tacit bundle")
        if header["version"] != VERSION or not isinstance(header["checkpoint"], str):
            raise MessageError(f"bundle version={header['version']} isn't {VERSION}")
        if last != rfc8785.dumps({"sha256": self.sha256}) + b"\n":
            raise MessageError(
                f"{path} was changed or cut: its SHA-256 isn't that of its last line"
            )
        self.checkpoint: str = header["checkpoint"]
        self._size = signed(self.checkpoint).size

    def leaves(self) -> Iterator[str]:
        """The leaves in order, as they were hashed: as many as the checkpoint is of."""
        for line in itertools.islice(self._middle(), self._size):
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                raise MessageError("a leaf isn't UTF-8") from error

    def artifacts(self) -> Iterator[tuple[str, bytes]]:
        """Digest and bytes of the models in the file; the digest isn't checked here."""
        for line in itertools.islice(self._middle(), self._size, None):
            body = _object(line, "a model's line")
            try:
                yield str(body["artifact"]), base64.b64decode(body["data"], validate=True)
            except (KeyError, TypeError, ValueError) as error:
                raise MessageError("a model's line can't be read") from error

    def _ends(self) -> tuple[bytes, bytes, str]:
        """First and last line, and the SHA-256 of all before the last."""
        hasher, first, last = hashlib.sha256(), b"", b""
        with _explained(self._path), self._path.open("rb") as file:
            for line in file:
                hasher.update(last)
                first, last = first or line, line
        return first, last, hasher.hexdigest()

    def _middle(self) -> Iterator[bytes]:
        """All lines but the ends, without their newline."""
        with _explained(self._path), self._path.open("rb") as file:
            next(file, None)
            held = next(file, None)
            for line in file:
                assert held is not None
                yield held.removesuffix(b"\n")
                held = line


def _object(line: bytes, what: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"{what} isn't JSON: {error}") from error
    if not isinstance(found, dict):
        raise MessageError(f"{what} isn't a JSON object")
    return found


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}") from error
