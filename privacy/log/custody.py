"""What the log says of reads, and proofs that one read or score is under its leaf.

Part of the verifier (`tacit.privacy.log.trail`). Guarantees of ACCESS leaves: each covers the rows
right after those of the one before, from the first row on, so none was left out between two, and
none is under two. Those of ERASURE are followed by `tacit.privacy.log.erasures`.

It doesn't guarantee that a row says what happened, nor see rows at all: the operator's check
(`tacit ledger verify`) holds them against the roots, and `covered` one that somebody was given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tacit.privacy.errors import MessageError
from tacit.privacy.log import merkle
from tacit.privacy.log.erasures import Erasures

Leaf = Mapping[str, Any]
_ROOT = re.compile(r"[0-9a-f]{64}")


class Custody:
    """Follows the leaves of these kinds."""

    def __init__(self) -> None:
        self.last = 0
        self._erasures = Erasures()

    def take(self, index: int, body: Leaf) -> Iterator[str]:
        """What is wrong with the next leaf of these kinds."""
        if body["run"] != "":
            yield f"{body['kind']} is of run={body['run']}, and is of none"
        if body["kind"] == "ACCESS":
            yield from self._access(body)
        else:
            yield from self._erasures.take(body)

    def _access(self, body: Leaf) -> Iterator[str]:
        first, last, count = (_whole(body, name) for name in ("first", "last", "count"))
        if not _ROOT.fullmatch(body["root"]):
            raise MessageError(f"root={body['root']!r:.80} isn't a digest")
        if first != self.last + 1:
            yield f"covers accesses from {first} on, and those before it end with {self.last}"
        if last < first or count != last - first + 1:
            yield f"covers {count} accesses, from {first} to {last}"
        self.last = max(self.last, last)


def covered(proof: Mapping[str, Any], leaf: Leaf) -> bool:
    """Whether a row is under an ACCESS leaf.

    That the leaf is in the ledger is another proof's to show: `tacit ledger prove`.

    Args:
        proof: as `tacit.server.access.records.Recorder.inclusion` makes it, or anybody.
        leaf: the body of the leaf that it names.
    """
    try:
        row = merkle.leaf_hash(proof["row"].encode())
        path = [bytes.fromhex(node) for node in proof["proof"]]
        index, size = _whole(proof, "index"), _whole(leaf, "count")
        root = bytes.fromhex(leaf["root"])
    except (LookupError, TypeError, ValueError, AttributeError, MessageError):
        return False
    return leaf.get("kind") == "ACCESS" and merkle.verify_inclusion(index, size, row, path, root)


def _whole(body: Mapping[str, Any], name: str) -> int:
    value = body[name]
    if not isinstance(value, int) or isinstance(value, bool):
        raise MessageError(f"{name}={value!r:.80} isn't a whole number")
    return value
