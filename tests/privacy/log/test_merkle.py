"""The Merkle tree: reference vectors, the RFC's recursion, and proofs that lie."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.privacy.log.merkle import (
    EMPTY_ROOT,
    Nodes,
    Tree,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    new_nodes,
    node_hash,
    root,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# The reference vectors of Certificate Transparency: inputs, and the root of each prefix.
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657"]
INPUTS.append("606162636465666768696a6b6c6d6e6f")
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
SECOND = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
PAIR = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
HALF = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
FIFTH = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
THIRD_PAIR = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
LAST_PAIR = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
SEVENTH = "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f"
INCLUSION = {
    (0, 1): [],
    (0, 8): [SECOND, PAIR, HALF],
    (5, 8): [FIFTH, LAST_PAIR, ROOTS[4]],
    (2, 3): [ROOTS[2]],
    (1, 5): [ROOTS[1], PAIR, FIFTH],
}
CONSISTENCY = {
    (1, 1): [],
    (1, 8): [SECOND, PAIR, HALF],
    (6, 8): [THIRD_PAIR, LAST_PAIR, ROOTS[4]],
    (2, 5): [PAIR, FIFTH],
    (6, 7): [THIRD_PAIR, SEVENTH, ROOTS[4]],
}
LARGE = 65
LEAVES = [leaf_hash(str(i).encode()) for i in range(LARGE)]


def grown(leaves: list[bytes]) -> Tree:
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    return tree


# RFC 9162, sections 2.1.1, 2.1.3.1 and 2.1.4.1, over D = LEAVES[a:b], word for word.


def k_of(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


@functools.cache
def mth(a: int, b: int) -> bytes:
    if a == b:
        return hashlib.sha256(b"").digest()
    if b - a == 1:
        return LEAVES[a]
    k = k_of(b - a)
    return hashlib.sha256(b"\x01" + mth(a, a + k) + mth(a + k, b)).digest()


def path(m: int, a: int, b: int) -> list[bytes]:
    if b - a == 1:
        return []
    k = k_of(b - a)
    if m < k:
        return [*path(m, a, a + k), mth(a + k, b)]
    return [*path(m - k, a + k, b), mth(a, a + k)]


def subproof(m: int, a: int, b: int, whole: bool) -> list[bytes]:
    if m == b - a:
        return [] if whole else [mth(a, b)]
    k = k_of(b - a)
    if m <= k:
        return [*subproof(m, a, a + k, whole), mth(a + k, b)]
    return [*subproof(m - k, a + k, b, False), mth(a, a + k)]


def altered(digest: bytes, bit: int) -> bytes:
    return bytes(x ^ (bit // 8 == i) * (1 << bit % 8) for i, x in enumerate(digest))


def one_bit_off(proof: list[bytes], bits: range) -> Iterator[list[bytes]]:
    for i, digest in enumerate(proof):
        for bit in bits:
            yield [*proof[:i], altered(digest, bit), *proof[i + 1 :]]


def miscut(proof: list[bytes]) -> Iterator[list[bytes]]:
    """Proofs with pieces too many, too few, in another order, or of another length."""
    for i in range(len(proof)):
        yield proof[:i] + proof[i + 1 :]
        yield [*proof[:i], proof[i][:31], *proof[i + 1 :]]
        yield [*proof[:i], proof[i] + b"\x00", *proof[i + 1 :]]
        yield [*proof[:i], b"", *proof[i:]]
    for i in range(len(proof) + 1):
        for extra in (EMPTY_ROOT, mth(0, LARGE), bytes(32)):
            yield [*proof[:i], extra, *proof[i:]]
    if proof:
        yield []
    if len(proof) > 1:
        yield proof[::-1]


# Reference vectors


def test_hashes_are_prefixed() -> None:
    assert hashlib.sha256().digest() == EMPTY_ROOT
    assert leaf_hash(b"x") == hashlib.sha256(b"\x00x").digest()
    assert (
        node_hash(b"l" * 32, b"r" * 32) == hashlib.sha256(b"\x01" + b"l" * 32 + b"r" * 32).digest()
    )


def test_reference_vectors() -> None:
    leaves = [leaf_hash(bytes.fromhex(i)) for i in INPUTS]
    tree = grown(leaves)
    assert [tree.root_at(n).hex() for n in range(9)] == ROOTS
    assert [root_of(leaves[:n]).hex() for n in range(9)] == ROOTS
    for (index, size), expected in INCLUSION.items():
        proof = inclusion_proof(index, size, tree.node)
        assert [p.hex() for p in proof] == expected
        assert verify_inclusion(index, size, leaves[index], proof, bytes.fromhex(ROOTS[size]))
    for (old, new), expected in CONSISTENCY.items():
        proof = consistency_proof(old, new, tree.node)
        assert [p.hex() for p in proof] == expected
        before, after = bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new])
        assert verify_consistency(old, new, before, after, proof)


# Against the RFC's recursion


def test_roots_are_the_recursion() -> None:
    tree = grown(LEAVES)
    assert tree.size == LARGE
    assert tree.root() == mth(0, LARGE)
    for size in range(LARGE + 1):
        assert root(size, tree.node) == tree.root_at(size) == root_of(iter(LEAVES[:size]))
        assert root(size, tree.node) == mth(0, size)
        assert grown(LEAVES[:size]).root() == mth(0, size)


def test_inclusion_proofs_are_the_recursion_and_verify() -> None:
    tree = grown(LEAVES)
    for size in range(1, LARGE + 1):
        for index in range(size):
            proof = inclusion_proof(index, size, tree.node)
            assert proof == path(index, 0, size)
            assert verify_inclusion(index, size, LEAVES[index], proof, mth(0, size))
            assert verify_inclusion(index, size, LEAVES[index], tuple(proof), mth(0, size))


def test_consistency_proofs_are_the_recursion_and_verify() -> None:
    tree = grown(LEAVES)
    for new in range(1, LARGE + 1):
        for old in range(1, new + 1):
            proof = consistency_proof(old, new, tree.node)
            assert proof == subproof(old, 0, new, True)
            assert verify_consistency(old, new, mth(0, old), mth(0, new), proof)
            assert verify_consistency(old, new, mth(0, old), mth(0, new), tuple(proof))


@given(data=st.data(), count=st.integers(1, 3000))
def test_larger_trees(data: st.DataObject, count: int) -> None:
    tree = big()
    old, index = data.draw(st.integers(1, count)), data.draw(st.integers(0, count - 1))
    whole, leaf = tree.root_at(count), tree.node(0, index)
    proof = inclusion_proof(index, count, tree.node)
    assert len(proof) <= (count - 1).bit_length()
    assert verify_inclusion(index, count, leaf, proof, whole)
    other = data.draw(st.integers(0, count - 1))
    assert verify_inclusion(other, count, leaf, proof, whole) == (other == index)
    history = consistency_proof(old, count, tree.node)
    assert len(history) <= (count - 1).bit_length() + 1
    assert verify_consistency(old, count, tree.root_at(old), whole, history)
    if proof:
        wrong = list(one_bit_off(proof, range(data.draw(st.integers(0, 255)), 256, 97)))
        assert not any(verify_inclusion(index, count, leaf, w, whole) for w in wrong)


@functools.cache
def big() -> Tree:
    return grown([leaf_hash(i.to_bytes(4, "big")) for i in range(3000)])


# What is stored and asked for


def test_new_nodes_are_all_that_later_proofs_need() -> None:
    stored: dict[tuple[int, int], bytes] = {}
    tree = big()
    for size in range(700):
        made = new_nodes(size, tree.node(0, size), lambda level, i: stored[level, i])
        assert made[0] == (0, size, tree.node(0, size))
        assert [level for level, _, _ in made] == list(range(len(made)))
        for level, index, node in made:
            assert (level, index) not in stored
            assert (index + 1) << level == size + 1
            stored[level, index] = node
    assert all(tree.node(*place) == node for place, node in stored.items())
    assert len(stored) == sum(700 >> level for level in range(10))
    for size in range(1, 701, 23):
        assert root(size, lambda level, i: stored[level, i]) == tree.root_at(size)
        for other in range(size):
            inclusion_proof(other, size, lambda level, i: stored[level, i])
            consistency_proof(other, size, lambda level, i: stored[level, i])


def test_few_nodes_are_asked_for() -> None:
    def counted(ask: Callable[[Nodes], object]) -> int:
        asked = []

        def nodes(level: int, index: int) -> bytes:
            asked.append((level, index))
            return tree.node(level, index)

        ask(nodes)
        assert len(set(asked)) == len(asked)
        return len(asked)

    tree = big()
    for size in (1, 2, 3, 1023, 1024, 1025, 2047, 2999):
        bits = size.bit_length()
        assert counted(lambda n, s=size: root(s, n)) == size.bit_count()  # type: ignore[misc]
        for at in {0, size // 3, size - 1}:
            for proof in (inclusion_proof, consistency_proof):
                assert counted(lambda n, p=proof, a=at, s=size: p(a, s, n)) <= 2 * bits  # type: ignore[misc]


# Lies


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 11])
def test_every_bit_of_an_inclusion_proof_counts(size: int) -> None:
    tree = grown(LEAVES)
    whole = mth(0, size)
    for index in range(size):
        proof, leaf = inclusion_proof(index, size, tree.node), LEAVES[index]
        for bit in range(256):
            assert not verify_inclusion(index, size, altered(leaf, bit), proof, whole)
            assert not verify_inclusion(index, size, leaf, proof, altered(whole, bit))
        for wrong in one_bit_off(proof, range(256)):
            assert not verify_inclusion(index, size, leaf, wrong, whole)


@pytest.mark.parametrize("new", [2, 3, 4, 5, 7, 8, 11])
def test_every_bit_of_a_consistency_proof_counts(new: int) -> None:
    tree = grown(LEAVES)
    for old in range(1, new):
        proof, before, after = consistency_proof(old, new, tree.node), mth(0, old), mth(0, new)
        for bit in range(256):
            assert not verify_consistency(old, new, altered(before, bit), after, proof)
            assert not verify_consistency(old, new, before, altered(after, bit), proof)
        for wrong in one_bit_off(proof, range(256)):
            assert not verify_consistency(old, new, before, after, wrong)


def test_a_bit_of_each_piece_counts_at_every_size() -> None:
    tree = grown(LEAVES)
    for size in range(1, LARGE + 1):
        for at in range(size):
            bits = range((7 * size + 31 * at) % 256, 256, 256)
            for wrong in one_bit_off(inclusion_proof(at, size, tree.node), bits):
                assert not verify_inclusion(at, size, LEAVES[at], wrong, mth(0, size))
            for wrong in one_bit_off(consistency_proof(at, size, tree.node), bits):
                assert not verify_consistency(at, size, mth(0, at), mth(0, size), wrong)


def test_pieces_too_many_too_few_or_out_of_order_are_refused() -> None:
    tree = grown(LEAVES)
    for size in (*range(1, 20), 31, 32, 33, 64, 65):
        for at in range(size):
            for wrong in miscut(inclusion_proof(at, size, tree.node)):
                assert not verify_inclusion(at, size, LEAVES[at], wrong, mth(0, size))
            for wrong in miscut(consistency_proof(at, size, tree.node)):
                assert not verify_consistency(at, size, mth(0, at), mth(0, size), wrong)
            assert not verify_consistency(size, size, mth(0, size), mth(0, size), [EMPTY_ROOT])


def test_a_leaf_is_in_one_place() -> None:
    tree = grown(LEAVES)
    for size in (2, 3, 7, 16, 33, 65):
        for index in range(size):
            proof = inclusion_proof(index, size, tree.node)
            for other in range(-1, size + 2):
                right = verify_inclusion(other, size, LEAVES[index], proof, mth(0, size))
                assert right == (other == index)


def test_an_inner_node_is_no_leaf() -> None:
    tree = grown(LEAVES)
    inner = tree.node(1, 0)
    whole = mth(0, 4)
    assert verify_inclusion(0, 2, inner, [tree.node(1, 1)], whole), "the size is the caller's"
    assert not verify_inclusion(0, 4, inner, [tree.node(1, 1)], whole)
    assert leaf_hash(tree.node(0, 0) + tree.node(0, 1)) != inner


def test_a_proof_has_the_length_of_its_size_whatever_the_roots() -> None:
    # The hashes all fit: only the lengths are wrong.
    tree, extra = grown(LEAVES), LEAVES[9]
    for size in (1, 2, 3, 6):
        proof = inclusion_proof(size - 1, size, tree.node)
        above = node_hash(extra, mth(0, size))
        assert not verify_inclusion(size - 1, size, LEAVES[size - 1], [*proof, extra], above)
        assert not verify_inclusion(0, 2 * size + 1, mth(0, size), [], mth(0, size))
    history = consistency_proof(3, 4, tree.node)
    before, after = node_hash(extra, mth(0, 3)), node_hash(extra, mth(0, 4))
    assert verify_consistency(3, 4, mth(0, 3), mth(0, 4), history)
    assert not verify_consistency(3, 4, before, after, [*history, extra])
    assert not verify_consistency(3, 5, mth(0, 3), mth(0, 4), history)


@pytest.mark.parametrize("new", [2, 3, 4, 6, 8, 13, 16, 21])
def test_a_rewritten_history_is_no_extension(new: int) -> None:
    for changed in range(new):
        other = grown([*LEAVES[:changed], leaf_hash(b"rewritten"), *LEAVES[changed + 1 : new]])
        for old in range(1, new):
            proof = consistency_proof(old, new, other.node)
            right = verify_consistency(old, new, mth(0, old), other.root(), proof)
            assert right == (changed >= old)


def test_the_empty_and_the_same_tree() -> None:
    tree = grown(LEAVES)
    for size in (1, 2, 3, 65):
        assert consistency_proof(0, size, tree.node) == []
        assert consistency_proof(size, size, tree.node) == []
        assert verify_consistency(0, size, EMPTY_ROOT, mth(0, size), [])
        assert not verify_consistency(0, size, mth(0, 1), mth(0, size), [])
        assert not verify_consistency(0, size, EMPTY_ROOT, mth(0, size), [mth(0, size)])
        assert verify_consistency(size, size, mth(0, size), mth(0, size), [])
        assert not verify_consistency(
            size, size, mth(0, size), mth(0, size + 1) if size < 65 else EMPTY_ROOT, []
        )
        assert not verify_inclusion(0, 0, LEAVES[0], [], EMPTY_ROOT)
    assert verify_consistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, [])
    assert not verify_consistency(0, 0, mth(0, 1), mth(0, 1), [])
    assert not verify_consistency(0, 0, EMPTY_ROOT, mth(0, 1), [])


@given(
    first=st.integers(-3, 2**70),
    last=st.integers(-3, 2**70),
    left=st.binary(max_size=40),
    right=st.binary(min_size=32, max_size=32),
    proof=st.lists(st.one_of(st.binary(min_size=32, max_size=32), st.binary(max_size=33))),
)
def test_nonsense_is_no_proof(
    first: int, last: int, left: bytes, right: bytes, proof: list[bytes]
) -> None:
    # A tree of one leaf needs no proof, and the empty one is a prefix of any.
    trivial = (first, last) == (0, 1) or first == last
    assert not verify_inclusion(first, last, left, proof, right) or (trivial and left == right)
    trivial = first == last or (first == 0 and left == EMPTY_ROOT)
    assert not verify_consistency(first, last, left, right, proof) or trivial


@pytest.mark.parametrize("piece", [None, 7, "0" * 32, bytearray(32), b""])
def test_pieces_of_another_type_are_no_proof(piece: object) -> None:
    whole = mth(0, 2)
    assert not verify_inclusion(0, 2, LEAVES[0], [piece], whole)  # type: ignore[list-item]
    assert not verify_consistency(1, 2, LEAVES[0], whole, [piece])  # type: ignore[list-item]


# Misuse


def test_what_is_out_of_range_is_refused() -> None:
    tree = grown(LEAVES[:5])
    wrong: list[tuple[str, Callable[[], object]]] = [
        ("size=-1 must be at least 0", lambda: root(-1, tree.node)),
        ("size=-1 must be at least 0", lambda: new_nodes(-1, LEAVES[0], tree.node)),
        ("index=5 must be from 0 to 4", lambda: inclusion_proof(5, 5, tree.node)),
        ("index=-1 must be from 0 to 4", lambda: inclusion_proof(-1, 5, tree.node)),
        ("index=0 must be", lambda: inclusion_proof(0, 0, tree.node)),
        ("old=6 must be from 0 to 5", lambda: consistency_proof(6, 5, tree.node)),
        ("old=-1 must be from 0 to 5", lambda: consistency_proof(-1, 5, tree.node)),
        ("size=6 must be from 0 to 5", lambda: tree.root_at(6)),
        ("size=-1 must be from 0 to 5", lambda: tree.root_at(-1)),
        ("level=3 must be from 0 to 2", lambda: tree.node(3, 0)),
        ("level=-1 must be", lambda: tree.node(-1, 0)),
        ("index=5 must be from 0 to 4", lambda: tree.node(0, 5)),
        ("index=2 must be from 0 to 1", lambda: tree.node(1, 2)),
        ("index=-1 must be", lambda: tree.node(0, -1)),
        ("index=0 must be", lambda: Tree().node(0, 0)),
        # The tree isn't that large.
        ("index=1 must be from 0 to 0", lambda: inclusion_proof(0, 8, tree.node)),
    ]
    for message, call in wrong:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_leaves_that_are_no_digests_are_refused(size: int) -> None:
    tree = grown(LEAVES[:3])
    before = tree.root()
    for call in (
        lambda: tree.append(bytes(size)),
        lambda: new_nodes(3, bytes(size), tree.node),
        lambda: root_of([LEAVES[0], bytes(size)]),
    ):
        with pytest.raises(ValueError, match=f"{size} bytes, not 32"):
            call()
    assert (tree.size, tree.root()) == (3, before)
