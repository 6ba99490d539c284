"""A version is loaded only if file, row, leaves and envelope say the same."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from postgres import BOTH
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey
from tampering import Unguarded, settled
from tiny import TINY, make_tiny

from tacit import simulate
from tacit.privacy import dsse
from tacit.privacy.errors import MessageError, MissingError, StorageError, TacitError
from tacit.privacy.log.notes import SignerKey, VerifierKey
from tacit.server import attested, check, keys
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.registry import ModelRegistry
from tacit.server.store import Store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = Home(tmp_path_factory.mktemp("attested") / "home")
    simulate(TINY, task=make_tiny(), home=home.root)
    settled(home.database)
    return home.root


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Home:
    return Home(shutil.copytree(made, tmp_path / "home"))


@pytest.fixture
def registry(copy: Home) -> Iterator[ModelRegistry]:
    store = Store(copy)
    yield ModelRegistry(copy, store)
    store.close()


def theirs(key: VerifierKey) -> SSlibKey:
    public = {"public": key.public.hex()}
    return SSlibKey(dsse.keyid(key), "ed25519", "ed25519", public)


def test_another_implementation_verifies_what_is_signed(registry: ModelRegistry) -> None:
    row = registry.find("tiny@2")
    found = Envelope.from_dict(json.loads(registry.envelope(row)))
    key = registry.store.signer.verifier
    assert found.verify([theirs(key)], 1)
    assert found.pae() == dsse.pae(dsse.IN_TOTO, found.payload)
    said = json.loads(found.payload)
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert said["subject"] == [{"name": "tiny@2", "digest": {"sha256": row["artifact"]}}]
    assert said["predicate"]["release"] == row["release"]
    stranger = SignerKey.generate(key.name).verifier
    with pytest.raises(VerificationError):
        found.verify([theirs(stranger)], 1)


def test_the_encoding_is_the_specifications() -> None:
    # The example of the protocol's own text.
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_any_bit_of_an_envelope_is_an_error() -> None:
    signer = SignerKey("ledger", bytes(32))
    text = dsse.signed(b'{"a":1}', dsse.IN_TOTO, signer)
    assert dsse.opened(text, dsse.IN_TOTO, [signer.verifier]) == b'{"a":1}'
    data = text.encode()
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            other = flipped.decode(errors="surrogateescape")
            with pytest.raises(MessageError):
                dsse.opened(other, dsse.IN_TOTO, [signer.verifier])


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"payload":1}', "[" * 100_000])
def test_what_is_no_envelope_is_an_error(text: str) -> None:
    with pytest.raises(MessageError):
        dsse.opened(text, dsse.IN_TOTO, [])


@BOTH
def test_a_release_is_attested_and_loads(home: Home, url: str | None) -> None:
    Store(home).close()
    simulate([*TINY, "rounds=2"], task=make_tiny(), home=home.root)
    store = Store(home)
    registry = ModelRegistry(home, store)
    assert set(registry.load(registry.find("tiny"))) == {"weight", "bias"}
    # Versions outlive the key that attested them, also for a store opened before.
    keys.rotate(home, store.database, store.signer)
    assert registry.load(registry.find("tiny@1"))
    assert check.verify(store).findings == []
    store.close()


def test_a_bit_of_the_file_is_an_error_at_load(registry: ModelRegistry) -> None:
    row, rng = registry.find("tiny@2"), np.random.default_rng(0)
    path = registry.path(row["artifact"])
    data = path.read_bytes()
    for place in rng.integers(len(data), size=40):
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        with pytest.raises(StorageError, match="corrupted"):
            registry.load(row)


def test_a_bit_of_the_envelope_is_an_error_at_load(registry: ModelRegistry, copy: Home) -> None:
    rng, text = np.random.default_rng(1), registry.envelope(registry.find("tiny@2"))
    for place in rng.integers(len(text), size=40):
        flipped = bytearray(text.encode())
        flipped[place] ^= 1 << int(rng.integers(7))
        with Unguarded(copy.database) as c:
            query = "UPDATE attestations SET envelope = ? WHERE version = 2"
            c.execute(query, [flipped.decode()])
        with pytest.raises(StorageError, match="attestation"):
            registry.load(registry.find("tiny@2"))
    assert registry.load(registry.find("tiny@1"))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE versions SET artifact = (SELECT artifact FROM versions WHERE id = 1) WHERE id = 2",
        "UPDATE versions SET metrics = '{\"accuracy\":1.5}' WHERE id = 2",
        "UPDATE versions SET code = 'mine' WHERE id = 2",
        "UPDATE versions SET charge = charge + 1 WHERE id = 2",
        "UPDATE versions SET round = 9 WHERE id = 2",
        "UPDATE versions SET release = 1 WHERE id = 2",
        "UPDATE versions SET parent = NULL WHERE id = 2",
        "UPDATE versions SET metrics = 'x' WHERE id = 2",
        "DELETE FROM attestations WHERE version = 2",
        "UPDATE attestations SET envelope = (SELECT envelope FROM attestations WHERE version = 1)",
        "UPDATE checkpoints SET note = 'x'",
        "UPDATE leaves SET body = replace(body, '\"round\":2', '\"round\":3')",
        "UPDATE leaves SET body = replace(body, '\"spec\":\"', '\"spec\":\"0') WHERE kind = 'PLAN'",
        "DELETE FROM leaves WHERE kind = 'PLAN'",
        "UPDATE nodes SET hash = zeroblob(32)",
    ],
)
def test_a_row_that_was_changed_is_an_error_at_load(
    registry: ModelRegistry, copy: Home, change: str
) -> None:
    with Unguarded(copy.database) as c:
        c.execute(change)
    with pytest.raises(StorageError):
        registry.load(registry.find("tiny@2"))


def test_row_leaf_and_file_doctored_together_are_an_error(
    registry: ModelRegistry, copy: Home
) -> None:
    """All but the key's own signatures: the other file is sound, and named by row and leaf."""
    rows = registry.list("tiny")
    old, new = rows[1]["artifact"], rows[0]["artifact"]
    with Unguarded(copy.database) as c:
        c.execute("UPDATE versions SET artifact = ? WHERE id = 2", [new])
        c.execute("UPDATE leaves SET body = replace(body, ?, ?)", [old, new])
    with pytest.raises(StorageError, match="can't be trusted"):
        registry.load(registry.find("tiny@2"))


def test_an_older_homes_versions_are_attested_once_and_only_then(copy: Home) -> None:
    with Unguarded(copy.database) as c:
        c.execute("DELETE FROM attestations")
    store = Store(copy)
    assert check.verify(store).findings == []
    assert ModelRegistry(copy, store).load(store.versions()[0])
    store.close()
    with Unguarded(copy.database) as c:
        c.execute("DELETE FROM attestations WHERE version = 1")
    store = Store(copy)
    (finding,) = check.verify(store).findings
    assert "the attestation of tiny@1 is gone" in finding.problem
    store.close()


def test_a_doctored_version_of_an_older_home_isnt_attested(copy: Home) -> None:
    with Unguarded(copy.database) as c:
        c.execute("DELETE FROM attestations")
        c.execute("UPDATE versions SET artifact = 'ab' WHERE id = 2")
    store = Store(copy)
    with closing(sqlite3.connect(copy.database)) as c:
        assert c.execute("SELECT version FROM attestations").fetchall() == [(1,)]
    with pytest.raises(StorageError):
        ModelRegistry(copy, store).load(store.versions()[1])
    store.close()


def test_a_file_is_verified_with_its_key_alone(registry: ModelRegistry, tmp_path: Path) -> None:
    row = registry.find("tiny@3")
    file, envelope = tmp_path / "model", tmp_path / "model.dsse.json"
    file.write_bytes(registry.verified(row))
    envelope.write_text(registry.envelope(row))
    key = registry.store.signer.verifier
    said = attested.of_file(str(file), str(envelope), [str(key)])
    assert (said["subject"], said["artifact"]) == ("tiny@3", row["artifact"])
    stranger = SignerKey.generate(key.name).verifier
    with pytest.raises(MessageError, match="nobody knows"):
        attested.of_file(str(file), str(envelope), [str(stranger)])
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StorageError, match="isn't tiny@3"):
        attested.of_file(str(file), str(envelope), [str(key)])
    with pytest.raises(TacitError, match="can't be read"):
        attested.of_file(str(file), str(tmp_path / "none"), [str(key)])


def test_an_unknown_alias_isnt_an_unknown_version(registry: ModelRegistry) -> None:
    life, who = Lifecycle(registry.store), {"actor": "a", "reason": "r"}
    first = life.move("tiny", "champion", 2, expected=None, **who)
    assert registry.find("tiny@champion")["number"] == 2
    life.move("tiny", "champion", None, expected=first.leaf, **who)
    for reference, words in {
        "tiny@champion": "names no version since leaf",
        "tiny@shadow": "tiny has no alias='shadow'",
        "tiny@9": "model=tiny@9 isn't in this home",
        "nobody@shadow": "model=nobody isn't in this home",
        "tiny@" + "9" * 40: "isn't in this home",
    }.items():
        with pytest.raises(MissingError, match=words):
            registry.find(reference)
