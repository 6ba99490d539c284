"""`tacit.protocol.folder`: signed by the right key and whole, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import rfc8785
from manifests import GRAPH, manifest, scores

from tacit.privacy.errors import MessageError, ModelError, StorageError
from tacit.privacy.secagg.keys import Identity
from tacit.protocol import folder, statements
from tacit.protocol.manifest import DeviceGraph

KEY = Identity.from_bytes(bytes(range(32)))
STEP = DeviceGraph(graph=GRAPH, manifest=manifest())
SCORES = DeviceGraph(graph=GRAPH, manifest=scores())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return write(tmp_path, folder.files(STEP, SCORES, "0" * 64, KEY))


def write(place: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (place / name).write_bytes(data)
    return place


def test_what_is_written_is_read(place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    held = folder.check(place, KEY.public)
    assert (held.step, held.evaluation) == (STEP.manifest, SCORES.manifest)
    bare = write(tmp_path_factory.mktemp("bare"), folder.files(STEP, None, "1" * 64, KEY))
    assert folder.check(bare, KEY.public).evaluation is None


def test_another_key_is_refused(place: Path) -> None:
    with pytest.raises(MessageError, match="isn't signed by"):
        folder.check(place, Identity.generate().public)


@pytest.mark.parametrize("name", ["step.onnx", "evaluation.onnx", "manifest.json", "signature"])
def test_every_file_counts(place: Path, name: str) -> None:
    data = bytearray((place / name).read_bytes())
    data[3] ^= 1
    (place / name).write_bytes(data)
    with pytest.raises((MessageError, ModelError)):
        folder.check(place, KEY.public)
    (place / name).unlink()
    with pytest.raises(StorageError, match=name):
        folder.check(place, KEY.public)


HELD = json.loads(folder.files(STEP, SCORES, "0" * 64, KEY)["manifest.json"])


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"more": 1},
        {"frozen": 1},
        {"step": HELD["evaluation"]},
        {"evaluation": HELD["step"]},
        {"step": None},
    ],
)
def test_another_manifest_is_refused_though_signed(place: Path, change: dict[str, object]) -> None:
    text = rfc8785.dumps(HELD | change)
    (place / "manifest.json").write_bytes(text)
    (place / "signature").write_text(KEY.sign(statements.manifest(text)).hex())
    with pytest.raises(MessageError, match=r"manifest\.json"):
        folder.check(place, KEY.public)
