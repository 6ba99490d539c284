"""A receipt is what the ledger's key signed, shows what its owner reveals, and nothing else."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tacit.privacy import receipts
from tacit.privacy.errors import MessageError
from tacit.privacy.log import command, leaves, merkle, proofs
from tacit.privacy.log.notes import Checkpoint, SignerKey, sign_note
from tacit.privacy.receipts import Part

SIGNER = SignerKey.generate("tests.example/ledger")
PINNED = [str(SIGNER.verifier)]
KEY = secrets.token_bytes(32)


def part(*numbers: float) -> Part:
    return Part("float32", (len(numbers),), np.array(numbers, dtype="<f4").tobytes())


PAIRS = [(part(k, 2.0), part(k / 10)) for k in range(5)]


def made(**more: Any) -> dict[str, Any]:
    body = {
        "request": "req-00000001",
        "at": "2026-01-01T00:00:00Z",
        "actor": "ann",
        "model": "tiny",
        "alias": "champion",
        "number": 2,
        "artifact": "ab" * 32,
        "release": 7,
        "graph": "cd" * 32,
        "leaf": 9,
        "role": "champion",
        "count": len(PAIRS),
        "root": receipts.root(KEY, iter(PAIRS)),
    }
    return receipts.sign({**body, **more}, SIGNER)


def envelope(receipt: dict[str, Any], **more: Any) -> dict[str, Any]:
    """With proofs, in a ledger of two leaves."""
    rows = [receipts.row(made(request=f"other-000{k}")) for k in range(3)]
    rows.insert(1, receipts.row(receipt))
    under = merkle.Tree()
    for row in rows:
        under.append(merkle.leaf_hash(row))
    access = {"kind": "ACCESS", "run": "", "at": "2026-01-01T00:00:00Z", "first": 1, "last": 4}
    access |= {"count": 4, "root": under.root().hex()}
    log = merkle.Tree()
    texts = [leaves.leaf_bytes({"kind": "KEY"}), leaves.leaf_bytes(access)]
    for text in texts:
        log.append(merkle.leaf_hash(text))
    note = sign_note(Checkpoint("tests.example/ledger", 2, log.root()).text(), SIGNER)
    inclusion = {
        "row": rows[1].decode(),
        "leaf": 1,
        "index": 1,
        "size": 4,
        "root": access["root"],
        "proof": [n.hex() for n in merkle.inclusion_proof(1, 4, under.node)],
    }
    proof = proofs.make(texts[1].decode(), 1, note, log.node)
    return {**receipts.Envelope(receipt, inclusion, proof).to_json(), **more}


def test_what_the_key_signed_holds_and_a_changed_field_does_not() -> None:
    receipt = made()
    receipts.check(receipt, PINNED)
    for name in receipts.FIELDS:
        changed = {**receipt, name: 3 if isinstance(receipt[name], int) else "x"}
        with pytest.raises(MessageError):
            receipts.check(changed, PINNED)
    with pytest.raises(MessageError, match="isn't a key that was named"):
        receipts.check(receipt, [str(SignerKey.generate("tests.example/ledger").verifier)])
    with pytest.raises(MessageError, match="needs the ledger's key"):
        receipts.check(receipt, [])
    with pytest.raises(MessageError, match="fields"):
        receipts.check({**receipt, "more": 1}, PINNED)


def test_one_record_is_shown_and_no_other_can_be() -> None:
    receipt = made()
    for index in range(len(PAIRS)):
        revealed = receipts.reveal(KEY, PAIRS, index)
        assert receipts.shown(receipt, revealed)
        assert KEY.hex() not in json.dumps(revealed)
        other = receipts.reveal(KEY, [PAIRS[0]] * 5, index)
        assert receipts.shown(receipt, {**other, "proof": revealed["proof"]}) == (index == 0)
    assert not receipts.shown(receipt, {**receipts.reveal(KEY, PAIRS, 1), "index": 2})
    # An answer that wasn't given.
    lie = [*PAIRS[:1], (PAIRS[1][0], part(9.0)), *PAIRS[2:]]
    assert not receipts.shown(receipt, receipts.reveal(KEY, lie, 1))
    with pytest.raises(MessageError, match=r"record=5 must be in 0\.\.4"):
        receipts.reveal(KEY, PAIRS, 5)


def test_equal_records_of_two_requests_have_nothing_in_common() -> None:
    assert receipts.root(KEY, iter(PAIRS)) != receipts.root(secrets.token_bytes(32), iter(PAIRS))
    same = [receipts.commitment(receipts.record_key(KEY, k), *PAIRS[0]) for k in range(2)]
    assert same[0] != same[1]
    # Where type and shape end isn't up to who fills them.
    flat, tall = Part("uint8", (4,), b"abcd"), Part("uint8", (2, 2), b"abcd")
    assert receipts.commitment(KEY, flat, tall) != receipts.commitment(KEY, tall, flat)


def test_a_file_is_checked_by_tacit_verify(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, receipt = tmp_path / "receipt.json", made()
    shown = [receipts.reveal(KEY, PAIRS, 3)]
    path.write_text(json.dumps(envelope(receipt, shown=shown)))
    assert command.run([str(path), "--key", PINNED[0]]) == 0
    said = capsys.readouterr().out
    assert "tiny@2" in said
    assert "under leaf 1" in said
    assert command.run([str(path), "--key", PINNED[0], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["holds"], found["leaf"], found["shown"]) == (True, 1, 1)
    path.write_text(json.dumps(receipts.Envelope(receipt).to_json(), indent=1))
    assert command.run([str(path), "--key", PINNED[0]]) == 0
    assert "no leaf is proven" in capsys.readouterr().out
    assert command.run([str(path)]) == 1
    assert command.run([str(path), "--key", PINNED[0], "--checkpoint", str(path)]) == 2


def test_whatever_is_changed_in_a_file_shows(tmp_path: Path) -> None:
    path, receipt = tmp_path / "receipt.json", made()
    whole = envelope(receipt, shown=[receipts.reveal(KEY, PAIRS, 3)])
    other = envelope(made(request="other-0009"))
    changes: list[dict[str, Any]] = [
        {"receipt": {**receipt, "number": 3}},
        {"receipt": made(request="another-1")},
        {"inclusion": None},
        {"proof": None},
        {"inclusion": other["inclusion"]},
        {"proof": other["proof"]},
        {"inclusion": {**whole["inclusion"], "index": 2}},
        {"shown": [receipts.reveal(KEY, [PAIRS[0]] * 5, 3)]},
        {"shown": [7]},
        {"shown": 7},
        {"receipt": []},
        {"inclusion": 3, "proof": 4},
        {"more": 1},
        {"version": 2},
    ]
    for change in changes:
        path.write_text(json.dumps({**whole, **change}))
        assert receipts.is_receipt(path)
        with pytest.raises(MessageError):
            receipts.check_file(path, PINNED)
    path.write_text('{"tacit": "receipt"')
    assert command.run([str(path), "--key", PINNED[0]]) == 1
