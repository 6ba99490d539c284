"""A proof shows its leaf, or that a ledger grew, under a known key, or is refused."""

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
from tacit.privacy.log.notes import SignerKey, signed

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


# Growth

SIZES = range(1, len(TEXTS) + 1)
NOTES = {size: note_of(TEXTS[:size], ME) for size in SIZES}


def growth(old: int, new: int) -> dict[str, Any]:
    return proofs.grown(NOTES[old], NOTES[new], tree().node)


@pytest.mark.parametrize("new", SIZES)
def test_growth_is_proved_between_every_two_sizes(path: Path, new: int) -> None:
    for old in range(1, new + 1):
        for separators in (None, (",", ":")):
            path.write_text(json.dumps(growth(old, new), separators=separators))
            assert proofs.is_growth(path)
            assert not proofs.is_proof(path)
            kept = [NOTES[old], NOTES[new]]
            found = proofs.check_growth(path, [str(OTHER.verifier), KEY], kept)
            assert found == (signed(NOTES[old]), signed(NOTES[new]))
    for old in range(new + 1, len(TEXTS) + 1):
        with pytest.raises(ValueError, match=f"old={old}"):
            growth(old, new)


def test_a_ledger_grows_from_nothing(path: Path) -> None:
    note = note_of([], ME)
    path.write_text(json.dumps(proofs.grown(note, NOTES[5], tree().node)))
    assert proofs.check_growth(path, [KEY]) == (signed(note), signed(NOTES[5]))


def test_growth_of_one_pair_of_sizes_is_of_no_other(path: Path) -> None:
    """Each pair's hashes under every pair of checkpoints."""
    pairs = [(old, new) for new in range(1, 8) for old in range(1, new + 1)]
    taken = set()
    for pair in pairs:
        made = growth(*pair)
        for old, new in pairs:
            path.write_text(json.dumps(made | {"since": NOTES[old], "checkpoint": NOTES[new]}))
            try:
                proofs.check_growth(path, [KEY])
            except MessageError:
                continue
            # Those of equal sizes are all empty, for one.
            assert growth(old, new)["proof"] == made["proof"]
            taken.add((old, new))
    assert taken == set(pairs)


@pytest.mark.parametrize(("old", "new"), [(3, 11), (8, 11), (7, 7)])
def test_no_byte_of_growth_can_be_changed(path: Path, old: int, new: int) -> None:
    data, rng = json.dumps(growth(old, new)).encode(), np.random.default_rng(0)
    for position in range(len(data)):
        # Case, a neighbour, or any other; none is white space, which would read the same.
        for mask in (0x20, 0x01, 1 << int(rng.integers(8))):
            changed = bytearray(data)
            changed[position] ^= mask
            path.write_bytes(bytes(changed))
            with pytest.raises(MessageError):
                proofs.check_growth(path, [KEY])


def test_no_history_but_the_signed_one_is_grown_from(path: Path) -> None:
    """Each leaf before the older checkpoint changed, and that signed with the right key."""
    for old in range(1, 8):
        for changed in range(old):
            texts = [*TEXTS[:changed], "{}", *TEXTS[changed + 1 :]]
            for made in (growth(old, 11), growth(old, 11) | {"proof": []}):
                path.write_text(json.dumps(made | {"since": note_of(texts[:old], ME)}))
                with pytest.raises(MessageError, match="doesn't prove"):
                    proofs.check_growth(path, [KEY])


OF_ANOTHER = note_of(TEXTS[:5], ME, "another")
GROWTH: list[Callable[[dict[str, Any]], object]] = [
    lambda p: p.update(tacit="proof"),
    lambda p: p.update(version=2),
    lambda p: p.update(version=True),
    lambda p: p.update(version=1.0),
    lambda p: p.update(version="1"),
    lambda p: p.update(more=1),
    lambda p: p.update(proof=None),
    lambda p: p.update(proof=[]),
    lambda p: p.update(proof=p["proof"][::-1]),
    lambda p: p.update(proof=p["proof"][1:]),
    lambda p: p.update(proof=p["proof"][:-1]),
    lambda p: p.update(proof=[*p["proof"], "00" * 32]),
    lambda p: p.update(proof=[*p["proof"], p["proof"][-1]]),
    lambda p: p.update(proof=["x"]),
    lambda p: p.update(proof=[5]),
    lambda p: p.update(proof="".join(p["proof"])),
    lambda p: p.update(proof=[d.upper() for d in p["proof"]]),
    lambda p: p.update(proof=[d[2:] for d in p["proof"]]),
    lambda p: p.update(since=5),
    lambda p: p.update(since="x"),
    lambda p: p.update(since="\ud800"),
    lambda p: p.update(since=signed(p["since"]).text()),
    lambda p: p.update(since=NOTES[6]),
    lambda p: p.update(since=note_of(TEXTS[:5], OTHER)),
    lambda p: p.update(since=OF_ANOTHER),
    lambda p: p.update(since=p["checkpoint"], checkpoint=p["since"]),
    lambda p: p.update(checkpoint=None),
    lambda p: p.update(checkpoint=NOTES[10]),
    lambda p: p.update(checkpoint=note_of(TEXTS, OTHER)),
    lambda p: p.update(checkpoint=note_of(TEXTS, ME, "another")),
    lambda p: p.pop("tacit"),
    lambda p: p.pop("version"),
    lambda p: p.pop("since"),
    lambda p: p.pop("proof"),
    lambda p: p.pop("checkpoint"),
]


@pytest.mark.parametrize("change", GROWTH)
def test_another_growth_is_refused(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    made = growth(5, 11)
    change(made)
    path.write_text(json.dumps(made))
    with pytest.raises(MessageError):
        proofs.check_growth(path, [KEY])


def test_growth_of_two_ledgers_of_one_key_is_refused(path: Path) -> None:
    made = growth(5, 11) | {"since": OF_ANOTHER}
    path.write_text(json.dumps(made))
    with pytest.raises(MessageError, match="of two ledgers, another and ledger"):
        proofs.check_growth(path, [KEY])


def test_growth_is_worth_its_keys(path: Path) -> None:
    path.write_text(json.dumps(growth(5, 11)))
    for keys in ([], [str(OTHER.verifier)], ["x"]):
        with pytest.raises(MessageError):
            proofs.check_growth(path, keys)
    # After a rotation, both.
    made = growth(5, 11) | {"checkpoint": note_of(TEXTS, OTHER)}
    path.write_text(json.dumps(made))
    assert proofs.check_growth(path, [KEY, str(OTHER.verifier)])[1].size == 11
    for key in (KEY, str(OTHER.verifier)):
        with pytest.raises(MessageError, match="isn't signed by a known key"):
            proofs.check_growth(path, [key])


def test_growth_is_of_the_checkpoints_kept(path: Path) -> None:
    """An operator with two histories has a signed checkpoint of each."""
    forked = note_of([*TEXTS[:4], "{}"], ME)
    path.write_text(json.dumps(growth(5, 11)))
    for kept in ([NOTES[5]], [NOTES[11]], [NOTES[5], NOTES[11]]):
        proofs.check_growth(path, [KEY], kept)
    for note in (forked, NOTES[6], OF_ANOTHER, note_of(TEXTS[:5], OTHER), "x", ""):
        with pytest.raises(MessageError):
            proofs.check_growth(path, [KEY], [NOTES[5], note])


def test_what_is_no_growth_is_refused(path: Path) -> None:
    for data in (b"", b"[]", b"5", b"{", b"\xff", b"[" * 10**6, b'{"tacit": "consistency"}'):
        path.write_bytes(data)
        with pytest.raises(MessageError):
            proofs.check_growth(path, [KEY])
    # Neither kind of proof is taken for the other.
    path.write_text(json.dumps(proof_of(5)))
    assert not proofs.is_growth(path)
    with pytest.raises(MessageError):
        proofs.check_growth(path, [KEY])
    path.write_text(json.dumps(growth(5, 11)))
    with pytest.raises(MessageError):
        proofs.check(path, [KEY])
    for unreadable in (path.parent, path.parent / "nowhere"):
        with pytest.raises(StorageError):
            proofs.is_growth(unreadable)
        with pytest.raises(StorageError):
            proofs.check_growth(unreadable, [KEY])


def test_the_command_shows_what_grew(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text(json.dumps(growth(5, 11)))
    kept = path.parent / "kept"
    kept.write_text(NOTES[5])
    old, new = signed(NOTES[5]).root.hex(), signed(NOTES[11]).root.hex()
    for more in ([], ["--checkpoint", str(kept)]):
        assert command.run([str(path), "--key", KEY, *more]) == 0
        said = capsys.readouterr().out
        assert "the proof holds: of ledger's 11 leaves the first 5 are" in said
        assert old in said
    assert command.run([str(path), "--key", KEY, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "holds": True,
        "origin": "ledger",
        "since": {"size": 5, "root": old},
        "now": {"size": 11, "root": new},
    }
    kept.write_text(NOTES[6])
    assert command.run([str(path), "--key", KEY, "--checkpoint", str(kept)]) == 1
    assert "the checkpoint of 6 leaves that was kept" in capsys.readouterr().err
    assert command.run([str(path)]) == 1
    assert command.run([str(path), "--key", str(OTHER.verifier), "--json"]) == 1
    assert not json.loads(capsys.readouterr().out)["holds"]
    assert command.run([str(path), "--key", KEY, "--artifacts", str(path.parent)]) == 2
