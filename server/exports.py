"""What leaves a home for others' eyes: bundles, proofs, and the difference of two states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy import validate
from tacit.privacy.errors import MessageError, StorageError
from tacit.privacy.log import bundle, merkle, proofs
from tacit.privacy.log.bundle import Bundle
from tacit.privacy.log.merkle import leaf_hash, verify_consistency, verify_inclusion
from tacit.privacy.log.notes import Checkpoint, VerifierKey, open_note, signed
from tacit.privacy.log.verify import Verifier, parsed
from tacit.server import log as logs
from tacit.server import tables as t
from tacit.server.home import explained
from tacit.server.registry import ModelRegistry
from tacit.server.store import Store

ARTIFACTS = ("none", "newest", "all")


def export(store: Store, to: str, artifacts: str = "none") -> dict[str, Any]:
    """Writes a bundle.

    Args:
        store: of the ledger.
        to: a file that isn't there yet.
        artifacts: "none", "newest" of each run, or "all".

    Returns:
        Its sha256, the number of leaves and the ledger's key.
    """
    validate.one_of("artifacts", artifacts, ARTIFACTS)
    path = Path(to)
    if path.exists():
        raise StorageError(f"{path} is there already", "choose another name, or remove it")
    part = path.with_name(f".{path.name}.part")
    with explained(f"{path} can't be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                said = write(store, file, artifacts)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return {**said, "path": str(path)}


def write(store: Store, file: IO[bytes], artifacts: str = "none") -> dict[str, Any]:
    """Writes a bundle of one state of the ledger, whatever is appended meanwhile.

    Args:
        store: of the ledger.
        file: open for writing.
        artifacts: as in `export`.

    Returns:
        Its sha256 (of all but the last line), the number of leaves and the ledger's key.
    """
    validate.one_of("artifacts", artifacts, ARTIFACTS)
    with store.database.reading() as c:
        note = _newest(c)
        name = bundle.write(file, note, logs.texts(c), _models(store, c, artifacts))
        return {"sha256": name, "leaves": logs.size(c), "key": str(store.signer.verifier)}


def prove(store: Store, index: int) -> dict[str, Any]:
    """A proof that one leaf is in the ledger (`tacit.privacy.log.proofs`).

    Raises:
        StorageError: there is no such leaf, or what is stored proves nothing.
    """
    with store.database.reading() as c:
        text = c.execute(sa.select(t.leaves.c.body).where(t.leaves.c.index == index)).scalar()
        if text is None:
            raise StorageError(
                f"leaf={index} isn't in the ledger", f"it has leaves 0 to {logs.size(c) - 1}"
            )
        note = _newest(c)
        try:
            made = proofs.make(text, index, note, lambda level, place: logs.node(c, level, place))
        except (sa.exc.InvalidRequestError, LookupError, TypeError, ValueError) as error:
            raise _damaged(f"leaf={index} can't be proved: {error}") from error
    proof = [bytes.fromhex(digest) for digest in made["proof"]]
    newest, leaf = signed(note), leaf_hash(text.encode())
    if not verify_inclusion(index, newest.size, leaf, proof, newest.root):
        raise _damaged(f"leaf={index} isn't the one that the newest checkpoint signs")
    return made


def prove_since(store: Store, kept: str) -> dict[str, Any]:
    """A proof that the ledger only grew since a checkpoint (`tacit.privacy.log.proofs`).

    Args:
        store: of the ledger.
        kept: the older checkpoint, a signed note.

    Raises:
        MessageError: that isn't a checkpoint, or not one of this ledger.
        StorageError: the ledger has fewer leaves, or other ones, or is damaged.
    """
    with store.database.reading() as c:

        def nodes(level: int, place: int) -> bytes:
            return logs.node(c, level, place)

        note = _newest(c)
        try:
            keys = [VerifierKey.parse(body["key"]) for body in logs.keys(c)]
            newer = Checkpoint.parse(open_note(note, *keys))
        except (MessageError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(f"the newest checkpoint can't be checked: {error}") from error
        older = _kept(kept, keys, newer)
        try:
            # Asked first, since what doesn't verify may be the tree's fault or the checkpoint's.
            found = merkle.root(older.size, nodes)
            made = proofs.grown(kept, note, nodes)
        except (sa.exc.InvalidRequestError, LookupError, TypeError, ValueError) as error:
            raise _damaged(f"growth can't be proved: {error}") from error
    if found != older.root:
        raise _damaged(f"the first {older.size} leaves aren't those of the checkpoint")
    proof = [bytes.fromhex(digest) for digest in made["proof"]]
    if not verify_consistency(older.size, newer.size, older.root, newer.root, proof):
        raise _damaged("the tree isn't the one that the newest checkpoint signs")
    return made


def _kept(note: str, keys: list[VerifierKey], newest: Checkpoint) -> Checkpoint:
    """An older checkpoint of the ledger, opened."""
    try:
        found = signed(note)
    except MessageError as error:
        raise MessageError(
            f"that isn't a checkpoint: {error.message}", "tacit ledger checkpoint writes one"
        ) from error
    if found.origin != newest.origin:
        raise MessageError(
            f"the checkpoint is of the ledger {found.origin}, not {newest.origin}",
            "give one of this ledger, or the other's --home",
        )
    try:
        open_note(note, *keys)
    except MessageError as error:
        raise MessageError(f"the checkpoint isn't this ledger's: {error.message}") from error
    if found.size > newest.size:
        raise StorageError(
            f"the checkpoint is of {found.size} leaves; the newest {found.size - newest.size} of"
            " them are gone",
            "restore the ledger from a backup that has them",
        )
    return found


def difference(old: str, new: str | None, store: Store | None) -> dict[str, Any]:
    """What was appended between two states of a ledger, and what that spent.

    Args:
        old: a bundle from earlier.
        new: a later one; None takes ``store``.
        store: of the home.

    Returns:
        ``appended`` leaves, ``spent`` rows whose epsilon changed, before and after, and
        ``problems``: what doesn't hold, the older log not being the beginning of the newer
        among it.
    """
    earlier = Bundle(Path(old))
    if new is not None:
        later = Bundle(Path(new))
        return _difference(earlier, later.leaves(), later.checkpoint)
    assert store is not None
    with store.database.reading() as c:
        return _difference(earlier, logs.texts(c), _newest(c))


def _difference(earlier: Bundle, texts: Iterable[str], checkpoint: str) -> dict[str, Any]:
    before, after = Verifier(), Verifier()
    for text in earlier.leaves():
        before.add(text)
    first, appended = before.tree.size, []
    for index, text in enumerate(texts):
        after.add(text)
        if index >= first:
            appended.append({"leaf": index, **_named(text)})
    reports = before.finish(earlier.checkpoint), after.finish(checkpoint, [earlier.checkpoint])
    known = {_row(run, row): row["epsilon"] for run in reports[0].runs for row in run["rows"]}
    spent = []
    for run in reports[1].runs:
        for row in run["rows"]:
            was = known.get(_row(run, row))
            if was != row["epsilon"]:
                place = {key: row[key] for key in ("unit", "adversary", "amplified")}
                spent.append({"run": run["run"], **place, "epsilon": [was, row["epsilon"]]})
    problems = [f"before: {finding}" for finding in reports[0].findings]
    problems += [str(finding) for finding in reports[1].findings]
    return {"appended": appended, "spent": spent, "problems": problems}


def _named(text: str) -> dict[str, Any]:
    """When, of which run and what a leaf is; None where it doesn't say, which is a problem."""
    try:
        body = parsed(text)
    except MessageError:
        body = {}
    return {key: body.get(key) for key in ("at", "run", "kind")}


def _newest(c: Connection) -> str:
    note = logs.newest_checkpoint(c)
    if note is None:
        raise _damaged("the ledger has no checkpoint")
    return note


def _damaged(message: str) -> StorageError:
    return StorageError(message, "tacit ledger verify says what is wrong with it")


def _row(run: dict[str, Any], row: dict[str, Any]) -> tuple[Any, ...]:
    return run["run"], row["unit"], row["adversary"], row["amplified"]


def _models(store: Store, c: Connection, which: str) -> Iterator[tuple[str, bytes]]:
    if which == "none":
        return
    rows = [
        dict(row._mapping) for row in c.execute(sa.select(t.versions).order_by(t.versions.c.id))
    ]
    if which == "newest":
        rows = list({row["run"]: row for row in rows}.values())
    registry = ModelRegistry(store.home, store)
    for digest, row in {row["artifact"]: row for row in rows}.items():
        yield digest, registry.verified(row)
