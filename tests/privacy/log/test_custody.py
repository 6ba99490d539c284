"""ACCESS leaves cover every row once, in order; what else they say is found."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.privacy.errors import MessageError
from tacit.privacy.log import merkle
from tacit.privacy.log.custody import Custody, covered


def leaf(first: Any, last: Any, **more: Any) -> dict[str, Any]:
    made = {"kind": "ACCESS", "run": "", "first": first, "last": last, "root": "0" * 64}
    return {**made, "count": last - first + 1 if isinstance(last, int) else 1, **more}


def said(*bodies: dict[str, Any]) -> list[str]:
    custody = Custody()
    return [line for i, body in enumerate(bodies) for line in custody.take(i, body)]


def test_ranges_that_follow_each_other_hold() -> None:
    assert said(leaf(1, 1), leaf(2, 9), leaf(10, 10)) == []


@pytest.mark.parametrize(
    "bodies",
    [
        [leaf(2, 3)],
        [leaf(0, 3)],
        [leaf(1, 3), leaf(5, 6)],
        [leaf(1, 3), leaf(3, 6)],
        [leaf(1, 3), leaf(1, 3)],
        [leaf(1, 0)],
        [leaf(1, 3, count=2)],
        [leaf(1, 3, count=0)],
        [leaf(1, 3, run="r")],
    ],
)
def test_others_dont(bodies: list[dict[str, Any]]) -> None:
    assert said(*bodies)


@pytest.mark.parametrize(
    "change",
    [{"first": "1"}, {"last": 3.0}, {"count": True}, {"root": "0" * 63}, {"root": "g" * 64}],
)
def test_what_isnt_of_the_shape_is_malformed(change: dict[str, Any]) -> None:
    with pytest.raises((MessageError, TypeError)):
        said({**leaf(1, 3), **change})


@given(st.lists(st.text(max_size=5), min_size=1, max_size=9), st.data())
def test_a_proof_is_of_one_row(rows: list[str], data: st.DataObject) -> None:
    rows = [row.encode(errors="replace").decode() for row in rows]
    tree = merkle.Tree()
    for row in rows:
        tree.append(merkle.leaf_hash(row.encode()))
    index = data.draw(st.integers(0, len(rows) - 1))
    body = leaf(1, len(rows), root=tree.root().hex())
    path = merkle.inclusion_proof(index, tree.size, tree.node)
    proof = {"row": rows[index], "index": index, "proof": [node.hex() for node in path]}
    assert covered(proof, body)
    assert not covered({**proof, "row": rows[index] + "x"}, body)
    assert not covered(proof, {**body, "kind": "ERASURE"})
    assert not covered(proof, {**body, "root": "0" * 64})
    for name in ("row", "index", "proof"):
        assert not covered({**proof, name: None}, body)
        assert not covered({k: v for k, v in proof.items() if k != name}, body)
