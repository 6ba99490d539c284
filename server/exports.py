"""What leaves a home for others' eyes: bundles, proofs, and the difference of two states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tacit.privacy import validate
from tacit.privacy.errors import StorageError
from tacit.privacy.log import bundle, proofs
from tacit.privacy.log.bundle import Bundle
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
    with store.database.reading() as c, explained(f"{path} can't be written"):
        note = logs.newest_checkpoint(c)
        assert note is not None
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                name = bundle.write(file, note, logs.texts(c), _models(store, artifacts))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        size = logs.size(c)
    return {"sha256": name, "leaves": size, "key": str(store.signer.verifier), "path": str(path)}


def prove(store: Store, index: int) -> dict[str, Any]:
    """A proof that one leaf is in the ledger (`tacit.privacy.log.proofs`)."""
    with store.database.reading() as c:
        text = c.execute(sa.select(t.leaves.c.body).where(t.leaves.c.index == index)).scalar()
        note = logs.newest_checkpoint(c)
        if text is None or note is None:
            raise StorageError(
                f"leaf={index} isn't in the ledger", f"it has leaves 0 to {logs.size(c) - 1}"
            )
        return proofs.make(text, index, note, lambda level, place: logs.node(c, level, place))


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
        note = logs.newest_checkpoint(c)
        assert note is not None
        return _difference(earlier, logs.texts(c), note)


def _difference(earlier: Bundle, texts: Iterable[str], checkpoint: str) -> dict[str, Any]:
    before, after = Verifier(), Verifier()
    for text in earlier.leaves():
        before.add(text)
    first, appended = before.tree.size, []
    for index, text in enumerate(texts):
        after.add(text)
        if index >= first:
            body = parsed(text)
            appended.append({"leaf": index, **{key: body[key] for key in ("at", "run", "kind")}})
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


def _row(run: dict[str, Any], row: dict[str, Any]) -> tuple[Any, ...]:
    return run["run"], row["unit"], row["adversary"], row["amplified"]


def _models(store: Store, which: str) -> Iterator[tuple[str, bytes]]:
    registry, rows = ModelRegistry(store.home, store), store.versions()
    if which == "none":
        return
    if which == "newest":
        rows = list({row["run"]: row for row in rows}.values())
    for digest in dict.fromkeys(row["artifact"] for row in rows):
        yield digest, registry.data(digest)
