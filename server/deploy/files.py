"""Files of a deployment: secrets are made once, with their owner's rights, and never replaced.

Guarantees: `create` leaves a file that is there as it is, and makes one whole or not at all
(a temporary file, synced, then linked to its name, which fails if somebody else was faster).
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tacit.privacy.errors import StorageError

SECRET, PUBLIC, PROGRAM = 0o600, 0o644, 0o755


def folder(path: Path, mode: int = 0o700) -> Path:
    """A folder, made with these rights if it isn't there.

    Raises:
        StorageError: it can't be made.
    """
    with explained(path):
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    return path


def create(path: Path, data: bytes, mode: int = SECRET) -> bool:
    """Writes a file that isn't there yet; says whether it did.

    Raises:
        StorageError: it can't be written.
    """
    if path.exists():
        return False
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with explained(path):
        try:
            _write(part, data, mode)
            try:
                os.link(part, path)
            except FileExistsError:
                return False
        finally:
            with contextlib.suppress(FileNotFoundError):
                part.unlink()
        _sync(path.parent)
    return True


def replace(path: Path, data: bytes, mode: int = PUBLIC) -> bool:
    """Writes a file that holds no secret and follows from others; says whether it changed."""
    if path.exists() and read(path) == data:
        return False
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with explained(path):
        try:
            _write(part, data, mode)
            os.replace(part, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                part.unlink()
        _sync(path.parent)
    return True


def read(path: Path, hint: str = "") -> bytes:
    """A file's bytes.

    Raises:
        StorageError: it can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror or error}", hint) from error


def read_json(path: Path, hint: str = "") -> dict[str, Any]:
    """A JSON object in a file.

    Raises:
        StorageError: it can't be read, or is something else.
    """
    try:
        found = json.loads(read(path, hint))
    except ValueError as error:
        raise StorageError(f"{path} isn't JSON: {error}", hint) from error
    if not isinstance(found, dict):
        raise StorageError(f"{path} isn't a JSON object", hint)
    return found


def dumps(value: Any) -> bytes:
    """JSON as people read it, always the same for the same value."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def rights(path: Path) -> int:
    """The rights of a file: its mode without its kind."""
    with explained(path):
        return stat.S_IMODE(path.stat().st_mode)


def _write(path: Path, data: bytes, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        # What the umask took away.
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns an `OSError` into a `StorageError` with the path."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} can't be written: {error.strerror or error}",
            "is there space, and is the folder this user's?",
        ) from error
