"""``tacit-verify``: a bundle or a proof, checked on a machine that has nothing else of tacit.

Exit status: 0 if all holds, 1 if something doesn't, 2 if the file can't be read at all.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tacit.privacy import erasure, receipts
from tacit.privacy.errors import StorageError, TacitError
from tacit.privacy.log import proofs
from tacit.privacy.log.bundle import Bundle
from tacit.privacy.log.notes import Checkpoint
from tacit.privacy.log.verify import Report, Verifier

_EVERY = 20_000


def main() -> None:
    """Runs the command."""
    # There is next to no garbage in cycles, and looking for it in millions of leaves takes long.
    gc.disable()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """The command with these arguments; returns its exit status."""
    asked = _parser().parse_args(arguments)
    try:
        kept = [_text(Path(name)) for name in asked.checkpoint]
        path = Path(asked.file)
        shown = _beside_bundles(path, asked, kept)
        if shown is not None:
            print(shown)
            return 0
        artifacts = Path(asked.artifacts) if asked.artifacts else None
        report = verify(path, kept, asked.key, artifacts)
    except TacitError as error:
        if asked.json and not isinstance(error, StorageError):
            finding = {"leaf": None, "problem": error.message}
            print(json.dumps({"holds": False, "findings": [finding]}))
        print(f"tacit-verify: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"              {error.hint}", file=sys.stderr)
        return 2 if isinstance(error, StorageError) else 1
    print(json.dumps(report.to_json()) if asked.json else described(report))
    return 0 if report.holds else 1


def verify(
    path: Path,
    kept: Sequence[str] = (),
    pinned: Sequence[str] = (),
    artifacts: Path | None = None,
) -> Report:
    """Verifies a bundle.

    Args:
        path: of its file.
        kept: checkpoints that somebody kept from earlier.
        pinned: keys that must have signed the ledger.
        artifacts: a folder of models, whose digests are checked too.

    Raises:
        MessageError: it isn't a bundle, or isn't whole.
        StorageError: it can't be read.
    """
    bundle, verifier = Bundle(path), Verifier()
    for count, text in enumerate(bundle.leaves(), 1):
        verifier.add(text)
        if count % _EVERY == 0 and sys.stderr.isatty():
            print(f"\r{count} leaves", end="", file=sys.stderr)
    _check_artifacts(bundle, verifier, artifacts)
    return verifier.finish(bundle.checkpoint, kept, pinned)


def described(report: Report) -> str:
    """The report as text: what holds, what doesn't, and the table of epsilon."""
    lines = [f"ledger   {report.origin}", f"leaves   {report.size}", f"root     {report.root}"]
    lines += [f"key      {key}" for key in report.keys]
    for run in report.runs:
        kind = "rollout of " if run["kind"] == "rollout" else ""
        lines += ["", f"run {run['run']}: {kind}{run['name']}, {run['released']} rounds released, "]
        lines[-1] += f"{run['charges']} charges, {run['status']}, on population={run['population']}"
        lines += _table(run["rows"])
    for population in report.populations:
        if population["runs"] > 1:
            lines += ["", f"population {population['population']}: {population['runs']} runs"]
            lines[-1] += " together, had all plans been fixed before the first began"
            lines += _table(population["rows"])
    lines += ["", *(f"note: {note}" for note in report.notes)]
    lines += [f"WRONG {finding}" for finding in report.findings]
    lines.append("all holds" if report.holds else f"{len(report.findings)} findings: DOES NOT HOLD")
    return "\n".join(map(_plain, lines))


def _beside_bundles(path: Path, asked: argparse.Namespace, kept: Sequence[str]) -> str | None:
    """What a file shows that is a receipt, a report or a proof and holds; None for a bundle."""
    if proofs.is_growth(path) and not receipts.is_receipt(path):
        if asked.artifacts:
            raise StorageError("--artifacts is for bundles, not for a proof")
        return _grown(path, *proofs.check_growth(path, asked.key, kept), asked.json)
    # A receipt and a report may have proofs inside.
    kinds = {
        "receipt": receipts.is_receipt,
        "report": erasure.is_report,
        "proof": proofs.is_proof,
    }
    kind = next((name for name, fits in kinds.items() if fits(path)), None)
    if kind is None:
        return None
    if kept or asked.artifacts:
        raise StorageError(f"--checkpoint and --artifacts are for bundles, not for a {kind}")
    if kind == "receipt":
        return _received(path, receipts.check_file(path, asked.key), asked.json)
    if kind == "report":
        return _erased(path, erasure.check_file(path, asked.key), asked.json)
    leaf = proofs.check(path, asked.key)
    if asked.json:
        return json.dumps({"holds": True, "leaf": leaf})
    return _plain(f"{path}: the proof holds, of {json.dumps(leaf)}")


def _erased(path: Path, leaves: Sequence[dict[str, Any]], as_json: bool) -> str:
    """What a report of an erasure shows."""
    if as_json:
        return json.dumps({"holds": True, "leaves": leaves})
    stages = ", ".join(f"{leaf['stage']} at {leaf['at']}" for leaf in leaves)
    return _plain(f"{path}: the report holds; case {leaves[0]['case']}: {stages}")


def _grown(path: Path, older: Checkpoint, newer: Checkpoint, as_json: bool) -> str:
    """What a proof of growth shows."""
    if as_json:
        found = {"holds": True, "origin": newer.origin}
        for name, one in (("since", older), ("now", newer)):
            found[name] = {"size": one.size, "root": one.root.hex()}
        return json.dumps(found)
    began = f"the first {older.size} are those under the root {older.root.hex()}"
    return _plain(f"{path}: the proof holds: of {newer.origin}'s {newer.size} leaves {began}")


def _received(path: Path, found: dict[str, Any], as_json: bool) -> str:
    """What a receipt shows."""
    if as_json:
        return json.dumps({"holds": True, **found})
    r = found["receipt"]
    what = f"{r['model']}@{r['number']} (sha256 {r['artifact']}) answered request {r['request']}"
    what += f" of {r['count']} records as {r['role']} at {r['at']}"
    where = "no leaf is proven to cover it"
    if found["leaf"] is not None:
        where = f"it is under leaf {found['leaf']} of the ledger"
    some = f"; {found['shown']} records that it shows are among them" if found["shown"] else ""
    return _plain(f"{path}: the receipt holds: {what}; {where}{some}")


def _plain(line: str) -> str:
    """The line without what would move a terminal's cursor: leaves hold what others wrote."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def _table(rows: Sequence[dict[str, object]]) -> Iterator[str]:
    titles = ("unit", "against", "amplified", "epsilon", "delta", "by", "check")
    yield "  " + "  ".join(f"{title:<12}" for title in titles).rstrip()
    for row in rows:
        amplified = "yes" if row["amplified"] else "no"
        check = _number(row["cross_check"]) if "cross_check" in row else ""
        cells = [row["unit"], row["adversary"], amplified, _number(row["epsilon"])]
        cells += [f"{row['delta']:.3g}", row["method"] or "", check]
        yield "  " + "  ".join(f"{cell!s:<12}" for cell in cells).rstrip()


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "not claimed"


def _check_artifacts(bundle: Bundle, verifier: Verifier, folder: Path | None) -> None:
    """Models in the bundle and in a folder must be those that RELEASE leaves name."""
    released = {
        digest: index for run in verifier.trail.runs.values() for index, digest in run.artifacts
    }
    for digest, data in bundle.artifacts():
        if digest not in released:
            verifier.wrong(None, f"the bundle holds a model {digest} that was never released")
        elif hashlib.sha256(data).hexdigest() != digest:
            verifier.wrong(released[digest], f"the model in the bundle isn't {digest}")
    if folder is None:
        return
    if not folder.is_dir():
        raise StorageError(f"{folder} isn't a folder")
    missing = 0
    for digest, index in released.items():
        name = f"{digest}.safetensors"
        found = [path for path in (folder / digest[:2] / name, folder / name) if path.is_file()]
        missing += not found
        for path in found:
            if _sha256(path) != digest:
                verifier.wrong(index, f"{path} isn't the model that was released")
    if missing:
        verifier.trail.notes.append(f"{missing} of {len(released)} models aren't in {folder}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tacit-verify",
        description="Check an exported tacit ledger: signatures, tree, order, policies, epsilon.",
    )
    parser.add_argument(
        "file", metavar="BUNDLE", help="from tacit ledger export, prove, or a receipt"
    )
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="FILE",
        help="a checkpoint you kept: the ledger must still begin with what it signs; with a"
        " proof from prove --since, the one it is since",
    )
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="KEY",
        help="a key you know the ledger by (NAME+HASH+BASE64)",
    )
    parser.add_argument("--artifacts", metavar="DIR", help="a folder of models to check as well")
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")
    return parser


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} can't be read: {error}") from error
