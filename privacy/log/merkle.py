"""The Merkle tree of RFC 9162, section 2.1, with SHA-256: roots, proofs and their verifiers.

Guarantees, as far as SHA-256 is collision resistant: a root fixes every leaf and their order;
a proof that `verify_inclusion` takes shows a leaf's place under a root; one that
`verify_consistency` takes shows that the older tree is a prefix of the newer. A verifier
answers False to whatever isn't a proof, and never raises for it.

It doesn't check what a `Nodes` answers: a store that lies gives roots and proofs that don't
verify. Nor does consistency with an empty tree say anything of the newer one, whose prefix
it always is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

DIGEST_BYTES = 32
EMPTY_ROOT: bytes = hashlib.sha256().digest()

# nodes(level, index) is the hash of the complete subtree of the 2^level leaves that begin at
# leaf index * 2^level; at level 0, of the leaf itself.
Nodes: TypeAlias = Callable[[int, int], bytes]


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 || data), RFC 9162, section 2.1.1: 32 bytes."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right), RFC 9162, section 2.1.1: 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def new_nodes(size: int, leaf: bytes, nodes: Nodes) -> list[tuple[int, int, bytes]]:
    """What to store when a leaf is appended: each complete subtree that comes to be.

    Args:
        size: leaves before, at least 0.
        leaf: the new leaf's hash, 32 bytes.
        nodes: asked only for left siblings, all of which exist.

    Returns:
        (level, index, hash) from level 0, the leaf itself, upwards; one more for each
        trailing one in ``size`` written in binary.

    Raises:
        ValueError: ``size`` is negative, or ``leaf`` no digest.
    """
    _within("size", size, 0)
    level, index, node = 0, size, _digest(leaf)
    made = [(level, index, node)]
    while index & 1:
        node = node_hash(nodes(level, index - 1), node)
        level, index = level + 1, index >> 1
        made.append((level, index, node))
    return made


def root(size: int, nodes: Nodes) -> bytes:
    """The Merkle tree hash of the first ``size`` leaves, `EMPTY_ROOT` if there are none.

    Asks ``nodes`` once for each one in ``size`` written in binary.

    Raises:
        ValueError: ``size`` is negative.
    """
    _within("size", size, 0)
    return _range(0, size, nodes)


def inclusion_proof(index: int, size: int, nodes: Nodes) -> list[bytes]:
    """PATH(index, D[size]) of RFC 9162, section 2.1.3.1: siblings from the leaf upwards.

    Raises:
        ValueError: not 0 <= index < size.
    """
    _within("index", index, 0, size - 1)
    proof = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            proof.append(_range(middle, end, nodes))
            end = middle
        else:
            proof.append(_range(start, middle, nodes))
            start = middle
    return proof[::-1]


def consistency_proof(old: int, new: int, nodes: Nodes) -> list[bytes]:
    """PROOF(old, D[new]) of RFC 9162, section 2.1.4.1; empty for old=0 and old=new.

    Raises:
        ValueError: not 0 <= old <= new.
    """
    _within("old", old, 0, new)
    if old == 0:
        return []
    proof = []
    start, end = 0, new
    while old < end:
        middle = start + _split(end - start)
        if old <= middle:
            proof.append(_range(middle, end, nodes))
            end = middle
        else:
            proof.append(_range(start, middle, nodes))
            start = middle
    if start:  # Else this subtree is the old tree, whose root the verifier has.
        proof.append(_range(start, end, nodes))
    return proof[::-1]


def verify_inclusion(
    index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes
) -> bool:
    """Whether the leaf of hash ``leaf`` is at ``index`` in the tree of that size and root.

    RFC 9162, section 2.1.3.2.

    Args:
        index: of the leaf, from 0.
        size: of the tree, from a checkpoint.
        leaf: 32 bytes.
        proof: from `inclusion_proof`, or from anyone.
        root: 32 bytes, from the same checkpoint.
    """
    if not (0 <= index < size and _digests(leaf, root, *proof)):
        return False
    first, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if first & 1 or first == last:
            found = node_hash(sibling, found)
            first, last = _ascend(first, last)
        else:
            found = node_hash(found, sibling)
        first, last = first >> 1, last >> 1
    return last == 0 and found == root


def verify_consistency(
    old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Whether the tree of ``old`` leaves is a prefix of that of ``new``.

    RFC 9162, section 2.1.4.2, and the two cases that it leaves out, where the proof must be
    empty: old=new takes equal roots, old=0 takes `EMPTY_ROOT` and any newer one.

    Args:
        old: size of the older tree.
        new: size of the newer tree.
        old_root: 32 bytes.
        new_root: 32 bytes.
        proof: from `consistency_proof`, or from anyone.
    """
    if not (0 <= old <= new and _digests(old_root, new_root, *proof)):
        return False
    if old == new:
        return not proof and old_root == new_root and (new > 0 or new_root == EMPTY_ROOT)
    if old == 0:
        return not proof and old_root == EMPTY_ROOT
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    if not path:
        return False
    first, last = old - 1, new - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    found_old = found_new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            found_old, found_new = node_hash(sibling, found_old), node_hash(sibling, found_new)
            first, last = _ascend(first, last)
        else:
            found_new = node_hash(found_new, sibling)
        first, last = first >> 1, last >> 1
    return last == 0 and found_old == old_root and found_new == new_root


def root_of(hashes: Iterable[bytes]) -> bytes:
    """The Merkle tree hash of these leaf hashes, in memory logarithmic in their number.

    Raises:
        ValueError: one isn't a digest.
    """
    peaks: list[bytes] = []
    for index, leaf in enumerate(hashes):
        node = _digest(leaf)
        while index & 1:
            node = node_hash(peaks.pop(), node)
            index >>= 1
        peaks.append(node)
    return _fold(peaks)


class Tree:
    """A tree in memory, about 64 bytes a leaf.

    Attributes:
        size: leaves so far.
    """

    __slots__ = ("_levels", "size")

    def __init__(self) -> None:
        self.size = 0
        self._levels: list[bytearray] = [bytearray()]

    def append(self, leaf: bytes) -> None:
        """Adds a leaf by its hash.

        Raises:
            ValueError: it isn't a digest; the tree is as before.
        """
        node, index, level = _digest(leaf), self.size, 0
        self._levels[0] += node
        while index & 1:
            # The digest just written is the right child; the left one lies before it.
            node = hashlib.sha256(b"\x01" + self._levels[level][-2 * DIGEST_BYTES :]).digest()
            index, level = index >> 1, level + 1
            if level == len(self._levels):
                self._levels.append(bytearray())
            self._levels[level] += node
        self.size += 1

    def node(self, level: int, index: int) -> bytes:
        """The hash of a complete subtree; as `Nodes`, what the proofs are made from.

        Raises:
            ValueError: the tree has no such subtree.
        """
        _within("level", level, 0, len(self._levels) - 1)
        _within("index", index, 0, (self.size >> level) - 1)
        return bytes(self._levels[level][index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES])

    def root(self) -> bytes:
        """The Merkle tree hash of all leaves."""
        return root(self.size, self.node)

    def root_at(self, size: int) -> bytes:
        """The Merkle tree hash of the first ``size`` leaves.

        Raises:
            ValueError: there aren't as many.
        """
        _within("size", size, 0, self.size)
        return root(size, self.node)


def _range(start: int, end: int, nodes: Nodes) -> bytes:
    """MTH(D[start:end]), for a ``start`` that a power of two >= end - start divides."""
    peaks = []
    while start < end:
        level = (end - start).bit_length() - 1
        peaks.append(nodes(level, start >> level))
        start += 1 << level
    return _fold(peaks)


def _fold(peaks: Sequence[bytes]) -> bytes:
    """The root above complete subtrees, the largest of which comes first."""
    if not peaks:
        return EMPTY_ROOT
    found = peaks[-1]
    for peak in peaks[-2::-1]:
        found = node_hash(peak, found)
    return found


def _split(size: int) -> int:
    """The largest power of two below ``size``, at least 2: the RFC's k."""
    return 1 << ((size - 1).bit_length() - 1)


def _ascend(first: int, last: int) -> tuple[int, int]:
    """Skips the levels at which the node on the right edge has no sibling."""
    while first and not first & 1:
        first, last = first >> 1, last >> 1
    return first, last


def _digest(value: bytes) -> bytes:
    if len(value) != DIGEST_BYTES:
        raise ValueError(f"a digest has {len(value)} bytes, not {DIGEST_BYTES}")
    return value


def _digests(*values: bytes) -> bool:
    return all(isinstance(v, bytes) and len(v) == DIGEST_BYTES for v in values)


def _within(name: str, value: int, low: int, high: int | None = None) -> None:
    if value < low or (high is not None and value > high):
        bound = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name}={value} must be {bound}")
