"""A home put back from a backup (`tacit.server.backup`), which its ledger says from then on.

Guarantees: what is put back is the backup's, bit by bit, and holds (`tacit.server.check`) before
it is in its place; it is never put over something.

What came after a backup is lost with the home, and what it charged. Only a checkpoint of as many
leaves as the backup has says that nothing was, on the word of whoever gives it as the newest.
Otherwise the loss has to be accepted: then runs begun before are over, and policies have to be
set anew before more is charged, and devices' invitations made anew. Whoever kept a newer
checkpoint finds out in any case.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tacit.privacy.errors import MessageError, StorageError
from tacit.privacy.log import leaves
from tacit.privacy.log.notes import signed
from tacit.server import check
from tacit.server import log as logs
from tacit.server.gateway.tables import tokens
from tacit.server.home import Home, explained
from tacit.server.store import Store

FORMAT = 1
MANIFEST = "backup.json"
NAME = re.compile(
    r"tacit\.db|gateway\.json|clients/directory\.json|(?:artifacts|runs|keys)(?:/\w[\w.-]*)+"
)
"""What a file of a backup may be called."""
_CHUNK = 1 << 20
_OPEN = ("running", "waiting")


def restore(
    archive: str,
    to: str,
    checkpoint: str | None = None,
    accept_loss: bool = False,
    key: str | None = None,
) -> dict[str, Any]:
    """Puts a home back from a backup.

    Args:
        archive: the backup.
        to: a folder that isn't there yet, or is empty.
        checkpoint: the newest one that anybody kept, a signed note.
        accept_loss: goes on although leaves may be lost.
        key: the ledger's key file, where the backup has none.

    Returns:
        ``home``, ``leaves`` of the backup, ``known`` ones, the ``leaf`` that says so, and the
        ``runs`` that are over.

    Raises:
        MessageError: the archive isn't a backup, was changed, or the checkpoint isn't its
            ledger's.
        StorageError: something is in the way, it doesn't hold, or leaves may be lost and that
            wasn't accepted.
    """
    place = Path(to).absolute()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise StorageError(f"{place} is there already", "restore into a new home, then move it")
    with explained(f"{place} can't be written"):
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".restore-", dir=place.parent) as scratch:
            folder = Path(scratch) / "home"
            with unpacked(Path(archive), folder, Path(key) if key else None) as store:
                found = declare(store, checkpoint, accept_loss)
            os.rename(folder, place)
            sync(place.parent)
    return {"home": str(place), **found}


def declare(
    store: Store, checkpoint: str | None = None, accept_loss: bool = False
) -> dict[str, Any]:
    """Verifies a home that was put back, and says in its ledger that it was.

    `restore` calls it; call it by yourself where other tools put the database back.

    Args:
        store: of the home; nobody uses it meanwhile.
        checkpoint: see `restore`.
        accept_loss: see `restore`.

    Returns:
        As `restore`, without ``home``.

    Raises:
        MessageError: see `restore`.
        StorageError: see `restore`.
    """
    with store.database.reading() as c:
        size, origin = logs.size(c), logs.first_key(c)["origin"]
    known = None if checkpoint is None else _known(checkpoint, origin)
    # One of more leaves than there are shows what is lost; against fewer the backup is held.
    held = checkpoint if known is not None and known <= size else None
    verified(store, [held] if held else [])
    lossy = known != size
    if lossy and not accept_loss:
        raise _lossy(size, known)
    ended = [row["id"] for row in store.runs() if lossy and row["status"] in _OPEN]
    leaf = store.append(leaves.restore(size, known))
    if lossy:
        # Some may have been used since; a token is for one device.
        with store.database.writing() as c:
            unused = tokens.c.used_at.is_(None)
            c.execute(tokens.update().where(unused).values(expires_at=0))
    for run in ended:
        store.abandon_open_charges(run, "crash")
        store.set_status(run, "failed", f"put back from a backup of {size} leaves")
    return {"leaves": size, "known": known, "leaf": leaf, "runs": ended}


def _lossy(size: int, known: int | None) -> StorageError:
    if known is not None and known > size:
        what = f"the newest {known - size} of {known} leaves aren't in the backup"
    elif known is not None:
        what = f"the checkpoint is of {known} leaves and the backup of {size}: it isn't the newest"
    else:
        what = f"without a checkpoint nobody knows whether there were more than {size} leaves"
    return StorageError(
        f"{what}; what lost ones charged would be in no figure",
        "find a newer backup or checkpoint; with --accept-loss its runs are over, and policies "
        "must be set anew",
    )


def _known(note: str, origin: str) -> int:
    try:
        found = signed(note)
    except MessageError as error:
        raise MessageError(
            f"that isn't a checkpoint: {error.message}", "tacit ledger checkpoint writes one"
        ) from error
    if found.origin != origin:
        raise MessageError(f"the checkpoint is of the ledger {found.origin}, not {origin}")
    return found.size


def verified(store: Store, kept: list[str]) -> None:
    """Raises `StorageError` if a home that was put back doesn't hold."""
    report = check.verify(store, kept)
    if not report.holds:
        raise StorageError(
            f"the backup doesn't hold: {report.findings[0]} (and {len(report.findings) - 1} more)",
            "tacit ledger verify says whether the home does",
        )


class Hashing:
    """A file that hashes what is read of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.sha256 = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data = self._file.read(size)
        self.sha256.update(data)
        return data


@contextlib.contextmanager
def unpacked(archive: Path, folder: Path, key: Path | None) -> Iterator[Store]:
    """The store of a backup, unpacked into a folder."""
    try:
        with tarfile.open(archive, "r:") as tar:
            _extract(tar, folder)
    except tarfile.TarError as error:
        raise MessageError(f"{archive} isn't a backup: {error}") from error
    home = Home(folder, f"sqlite:///{folder / 'tacit.db'}")
    if not home.signing_key.is_file():
        if key is None:
            raise StorageError(
                f"{archive} has no keys", "give the ledger's with --key, from where it was kept"
            )
        with open(home.signing_key, "xb", opener=private) as file:
            file.write(key.read_bytes())
    store = Store(home)
    try:
        yield store
    finally:
        store.close()


def _extract(tar: tarfile.TarFile, folder: Path) -> None:
    """The files that the manifest names, each as it was."""
    due = _manifest(tar)
    seen = set()
    for member in tar:
        if member.name == MANIFEST:
            continue
        said = due.get(member.name)
        if said is None or member.name in seen or not member.isreg() or member.size != said["size"]:
            raise MessageError(f"the backup's {member.name} isn't the one that its list names")
        seen.add(member.name)
        path, source = folder / member.name, tar.extractfile(member)
        assert source is not None  # a regular file has content
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        hashing = Hashing(source)
        with open(path, "xb", opener=private) as file:
            while data := hashing.read(_CHUNK):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if hashing.sha256.hexdigest() != said["sha256"]:
            raise MessageError(f"the backup's {member.name} was changed")
    if missing := set(due) - seen:
        raise MessageError(f"the backup lacks {sorted(missing)[0]}, and {len(missing) - 1} more")


def _manifest(tar: tarfile.TarFile) -> dict[str, dict[str, Any]]:
    try:
        file = tar.extractfile(MANIFEST)
        found = json.loads(file.read()) if file else {}
        if found["format"] != FORMAT:
            raise MessageError(
                f"format={found['format']} of the backup is unknown", "a newer tacit wrote it"
            )
        files = {
            str(k): {"sha256": v["sha256"], "size": v["size"]} for k, v in found["files"].items()
        }
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise MessageError("that isn't a whole backup: its list can't be read") from error
    if "tacit.db" not in files or not all(NAME.fullmatch(name) for name in files):
        raise MessageError("the backup lists files that no home has, or no database")
    return files


def private(path: str, flags: int) -> int:
    """Opens a file that only its owner may read; `open`'s ``opener``."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def sync(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
