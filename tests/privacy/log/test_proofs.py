"""A proof shows its leaf under a known key, or is refused; it never shows another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tampering import note_of, texts_of

from tacit.privacy.errors import MessageError, StorageError
from tacit.privacy.log import command, merkle, proofs
from tacit.privacy.log.notes import SignerKey

ME, OTHER = SignerKey("ledger", bytes(32)), SignerKey("ledger", bytes([1] * 32))
KEY = str(ME.verifier)
BODIES = [{"kind": "STATUS", "run": "r", "number": i} for i in range(11)]
TEXTS = texts_of(BODIES)


def tree() -> merkle.Tree:
    made = merkle.Tree()
    for text in TEXTS:
        made.append(merkle.leaf_hash(text.encode()))
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "proof.json"


def proof_of(index: int) -> dict[str, Any]:
    return proofs.make(TEXTS[index], index, note_of(TEXTS, ME), tree().node)


@pytest.mark.parametrize("index", range(len(TEXTS)))
@pytest.mark.parametrize("compact", [False, True])
def test_every_leaf_is_proved(path: Path, index: int, compact: bool) -> None:
    separators = (",", ":") if compact else None
    path.write_text(json.dumps(proof_of(index), separators=separators))
    assert proofs.is_proof(path)
    assert proofs.check(path, [str(OTHER.verifier), KEY]) == BODIES[index]


def test_a_bit_shows_no_other_leaf(path: Path) -> None:
    """Each flip is refused but those that leave the proof as it reads."""
    made = proof_of(5)
    data, rng, taken = json.dumps(made).encode(), np.random.default_rng(0), 0
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(changed))
        try:
            assert proofs.check(path, [KEY]) == BODIES[5]
        except MessageError:
            continue
        taken += 1
    assert taken < 60  # White space, escapes, and the word that isn't read.


CHANGES: list[Callable[[dict[str, Any]], object]] = [
    lambda p: p.update(index=4),
    lambda p: p.update(index=True),
    lambda p: p.update(index=-6),
    lambda p: p.update(index="5"),
    lambda p: p.update(index=10**30),
    lambda p: p.update(size=10),
    lambda p: p.update(size=None),
    lambda p: p.update(leaf=TEXTS[4]),
    lambda p: p.update(leaf=5),
    lambda p: p.update(leaf="\ud800"),
    lambda p: p.update(version=2),
    lambda p: p.update(proof=None),
    lambda p: p.update(proof=[]),
    lambda p: p.update(proof=p["proof"][::-1]),
    lambda p: p.update(proof=[*p["proof"], "00" * 32]),
    lambda p: p.update(proof=["x"]),
    lambda p: p.update(proof=[5]),
    lambda p: p.update(proof=[d.upper() for d in p["proof"]]),
    lambda p: p.update(checkpoint=5),
    lambda p: p.update(checkpoint="x"),
    lambda p: p.update(checkpoint=note_of(TEXTS[:-1], ME)),
    lambda p: p.update(checkpoint=note_of(TEXTS, OTHER)),
    lambda p: p.pop("leaf"),
    lambda p: p.pop("checkpoint"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_another_proof_is_refused(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    made = proof_of(5)
    change(made)
    path.write_text(json.dumps(made))
    with pytest.raises(MessageError):
        proofs.check(path, [KEY])


def test_a_proof_is_worth_its_key(path: Path) -> None:
    path.write_text(json.dumps(proof_of(0)))
    for keys in ([], [str(OTHER.verifier)], ["x"]):
        with pytest.raises(MessageError):
            proofs.check(path, keys)


def test_what_is_no_proof_is_refused(path: Path) -> None:
    for data in (b"", b"[]", b"5", b'"x"', b"{", b"\xff", b"[" * 10**6, b'{"tacit": "proof"}'):
        path.write_bytes(data)
        with pytest.raises(MessageError):
            proofs.check(path, [KEY])
    for unreadable in (path.parent, path.parent / "nowhere"):
        with pytest.raises(StorageError):
            proofs.is_proof(unreadable)
        with pytest.raises(StorageError):
            proofs.check(unreadable, [KEY])


def test_the_command_shows_what_is_proved(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text(json.dumps(proof_of(7)))
    assert command.run([str(path), "--key", KEY]) == 0
    assert '"number": 7' in capsys.readouterr().out
    assert command.run([str(path), "--key", KEY, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"holds": True, "leaf": BODIES[7]}
    assert command.run([str(path)]) == 1
    assert command.run([str(path), "--key", str(OTHER.verifier)]) == 1
    # A proof has nothing to compare these with, so they aren't ignored.
    assert command.run([str(path), "--key", KEY, "--artifacts", str(path.parent)]) == 2
