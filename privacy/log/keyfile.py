"""The file that holds a log's signing key.

Guarantees: a key is only written where nothing was, is the owner's only from the start, and
is on disk whole before it is used; of two processes that make one at once, one is refused. A
file that others may read, or that another user owns, isn't used.

It doesn't encrypt the file; who reads it signs as the log. Nor is anyone kept from deleting
it, after which the log can't be signed any more.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from tacit.privacy.errors import ConfigError, MessageError, StorageError
from tacit.privacy.log.notes import SignerKey

_MAX_BYTES = 4096


def load(path: Path) -> SignerKey:
    """The key in a file.

    Raises:
        ConfigError: it isn't a file, isn't this user's, or others have rights to it.
        StorageError: it can't be read, or holds something else.
    """
    with _explained(f"the key file {path} can't be read", "does it exist, and is it this user's?"):
        # O_NONBLOCK: opening a pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _check_rights(path, os.fstat(descriptor))
            data = os.read(descriptor, _MAX_BYTES)
        finally:
            os.close(descriptor)
    hint = "restore it from a backup; with another key the log is another log"
    try:
        line = data.decode()
        key = SignerKey.parse(line.removesuffix("\n"))
    except (UnicodeDecodeError, MessageError):
        # Not chained: the decoder's error holds the bytes, which may be most of a secret.
        raise StorageError(f"the key file {path} isn't one signer key", hint) from None
    if line != f"{key.text()}\n":
        raise StorageError(f"the key file {path} isn't one finished line", hint)
    return key


def create(path: Path, name: str) -> SignerKey:
    """A new key, written durably where nothing was.

    Args:
        path: of the file, in a folder that exists.
        name: of the key, as `VerifierKey` wants it.

    Raises:
        ConfigError: the name isn't fit for a key.
        StorageError: there is something at the path already, or it can't be written.
    """
    key = _generate(name)
    with _explained(f"the key file {path} can't be written", "is the folder there and writable?"):
        try:
            _write(path, key)
        except FileExistsError as error:
            hint = "an existing key is never overwritten; choose another path"
            raise StorageError(f"the key file {path} exists", hint) from error
    return key


def _generate(name: str) -> SignerKey:
    try:
        return SignerKey.generate(name)
    except MessageError as error:
        raise ConfigError(error.message, "such as example.org/log") from error


def _write(path: Path, key: SignerKey) -> None:
    """Writes a file beside the path and links it there: whole, or not at all."""
    part = path.parent / f".{path.name}.{secrets.token_hex(8)}.part"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(part, "xb", opener=lambda p, _: os.open(p, flags, 0o600)) as file:
            file.write(f"{key.text()}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        os.link(part, path)  # Unlike a rename, it fails where something is.
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _check_rights(path: Path, found: os.stat_result) -> None:
    quoted = shlex.quote(str(path))
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"the key file {path} isn't a file", "choose another path")
    if found.st_uid != os.geteuid():
        raise ConfigError(
            f"the key file {path} is user {found.st_uid}'s, not user {os.geteuid()}'s",
            f"if the key is yours: chown {os.geteuid()} {quoted} && chmod 600 {quoted}",
        )
    if found.st_mode & 0o077:
        raise ConfigError(
            f"the key file {path} has the rights {found.st_mode & 0o777:03o}:"
            " others could sign as this log",
            f"chmod 600 {quoted}",
        )


@contextlib.contextmanager
def _explained(what: str, hint: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{what}: {error.strerror or error}", hint) from error
