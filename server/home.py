"""The folder in which tacit keeps its state: database, artifacts, keys, runs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from tacit.privacy.errors import StorageError

DEFAULT = ".tacit"


class Home:
    """Paths under one home, made with owner-only rights where they don't exist.

    Args:
        root: the folder; None takes ``TACIT_HOME``, else ``.tacit``.
        database: URL of a PostgreSQL database; None takes ``TACIT_DATABASE``, else what the
            home was made with, else SQLite in the home.

    Raises:
        StorageError: it can't be made or written.
    """

    def __init__(
        self, root: str | os.PathLike[str] | None = None, database: str | None = None
    ) -> None:
        self.root = Path(root or os.environ.get("TACIT_HOME") or DEFAULT).absolute()
        with explained(f"home {self.root} can't be written"):
            for folder in (self.root, self.artifacts, self.keys, self.runs):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(self.root, os.W_OK):
                raise PermissionError(errno.EACCES, "not writable")
        self.url = database or os.environ.get("TACIT_DATABASE") or self._remembered()

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.root / "tacit.db"

    @property
    def remembered(self) -> Path:
        """The file that says which PostgreSQL database this home's is; absent with SQLite."""
        return self.root / "database.url"

    @property
    def signing_key(self) -> Path:
        """The key that signs the ledger's checkpoints."""
        return self.keys / "ledger.key"

    @property
    def artifacts(self) -> Path:
        """Content-addressed models."""
        return self.root / "artifacts"

    @property
    def keys(self) -> Path:
        """Key files."""
        return self.root / "keys"

    @property
    def runs(self) -> Path:
        """One folder a run."""
        return self.root / "runs"

    def _remembered(self) -> str | None:
        if not self.remembered.is_file():
            return None
        with explained(f"{self.remembered} can't be read"):
            return self.remembered.read_text().strip()

    def run(self, identifier: str) -> Path:
        """The folder of one run, made if it isn't there."""
        folder = self.runs / identifier
        with explained(f"{folder} can't be written"):
            folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    @contextlib.contextmanager
    def lock(self, name: str, busy: str | None = None) -> Iterator[None]:
        """Holds a lock file against other processes; the kernel frees it when one dies.

        Args:
            name: of the lock, relative to the home.
            busy: if given, what to say instead of waiting when another process holds it.
        """
        with explained(f"{self.root / name} can't be locked"):
            descriptor = os.open(self.root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _locks.add(descriptor)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
            except BlockingIOError as error:
                raise StorageError(busy or "locked", "wait for it, or stop it") from error
            yield
        finally:
            _locks.discard(descriptor)
            os.close(descriptor)


# Descriptors of locks that this process holds. A forked worker closes its copies, else it would
# hold them for its parent when that is killed.
_locks: set[int] = set()


def _unlocked() -> None:
    while _locks:
        os.close(_locks.pop())


os.register_at_fork(after_in_child=_unlocked)


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns an `OSError` into a `StorageError` that says what failed and what to do."""
    try:
        yield
    except OSError as error:
        hint = "choose another with --home or TACIT_HOME"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            hint = "free space and use --resume; nothing that was committed is lost"
        raise StorageError(f"{what}: {error.strerror or error}", hint) from error


def write_durably(path: Path, data: bytes) -> None:
    """Writes a file so that it is there whole after a crash, or not at all.

    Raises:
        StorageError: the disk is full, or the folder can't be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with explained(f"{path} can't be written"):
        try:
            with open(part, "wb", opener=lambda p, f: os.open(p, f, 0o600)) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                part.unlink()
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
