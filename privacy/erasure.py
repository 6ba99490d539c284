"""A report of an erasure, as it was handed to a person: whether it holds.

Guarantees of what `check` lets through: its ERASURE leaves are in the ledger of the given keys, and
are commitments (HMAC-SHA256, each under a key of its own that the report has) to the case files
that the report shows.

It doesn't show that the files are true, nor that anything was destroyed: that is the operator's
word, and now a signed one.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import rfc8785

from tacit.privacy.errors import MessageError, StorageError
from tacit.privacy.log import proofs


def check(report: Mapping[str, Any], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Checks a report that was handed over: its leaves are in the ledger, and commit to its files.

    Args:
        report: its JSON (`tacit erase report`).
        keys: the ledger's, known from elsewhere.

    Returns:
        The ERASURE leaves.

    Raises:
        MessageError: it doesn't hold, or isn't one.
    """
    if not isinstance(report, Mapping) or report.get("tacit") != "erasure":
        raise MessageError("this isn't a report of an erasure")
    found = []
    try:
        for stage, proof in report["proofs"].items():
            leaf = proofs.check_object(proof, keys)
            said = (leaf["kind"], leaf["case"], leaf["population"], leaf["stage"])
            if said != ("ERASURE", report["case"], report["population"], stage):
                raise MessageError(f"the leaf of stage={stage} is of something else")
            if stage in report["files"] and not _opens(report, stage, leaf["file"]):
                raise MessageError(f"the file of stage={stage} isn't the one committed to")
            found.append(leaf)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise MessageError(f"the report is malformed: {type(error).__name__}") from error
    if not found:
        raise MessageError("the report has no proof")
    return found


def is_report(path: Path) -> bool:
    """Whether a file looks like a report: it has proofs inside it."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}") from error
    return head.lstrip().removeprefix(b"{").lstrip().startswith(b'"tacit": "erasure"')


def check_file(path: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """As `check`, of a report's file.

    Raises:
        MessageError: as `check`.
        StorageError: it can't be read.
    """
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise MessageError(f"{path} isn't JSON") from error
    return check(found, keys)


def _opens(report: Mapping[str, Any], stage: str, said: str) -> bool:
    opening = bytes.fromhex(report["openings"][stage])
    made = hmac.new(opening, rfc8785.dumps(report["files"][stage]), sha256).hexdigest()
    return hmac.compare_digest(made, said)
