"""What is loaded is what was released; what is kept beside it is used only if it is signed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scoring import MODEL
from tiny import make_tiny

from tacit.privacy.errors import ConfigError, ModelError, StorageError
from tacit.server import runs
from tacit.server.registry import ModelRegistry
from tacit.server.scoring.graphs import Kept
from tacit.server.scoring.model import Loader, as_records
from tacit.server.store import Store
from tacit.tasks import scoring


def test_a_graph_is_kept_signed_and_made_anew_if_it_was_changed(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = ModelRegistry(store.home, store)
    row = registry.find(f"{MODEL}@2")
    kept = Kept(store, runs.spec_of(store.run(row["run"])), row["artifact"]).path
    exports, real = [], scoring.template
    monkeypatch.setattr(scoring, "template", lambda *a: exports.append(1) or real(*a))
    first = Loader(store, registry).load(row)
    assert exports == []
    whole = kept.read_text()
    other = next(path for path in kept.parent.glob("*.json") if path != kept)
    changes = ({"shape": [5]}, {"graph": "AAAA"}, {"signature": "AAAA"}, {"rows": 1})
    for change in (*changes, json.loads(other.read_text())):
        kept.write_text(json.dumps({**json.loads(whole), **change}))
        before = len(exports)
        assert Loader(store, registry).load(row).graph.digest == first.graph.digest
        assert len(exports) == before + 1
        assert kept.read_text() == whole
    kept.write_text("no")
    assert Loader(store, registry).load(row).graph.digest == first.graph.digest


def test_a_server_has_graphs_made_beside_it(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = ModelRegistry(store.home, store)
    row = registry.find(f"{MODEL}@2")
    kept = Kept(store, runs.spec_of(store.run(row["run"])), row["artifact"]).path
    whole = kept.read_text()
    kept.unlink()
    monkeypatch.setattr(scoring, "template", lambda *a: pytest.fail("made here"))
    Loader(store, registry, apart=True).load(row)
    assert kept.read_text() == whole
    kept.unlink()
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.chdir(root)
    with pytest.raises(ModelError, match="task=served:task can't be loaded"):
        Loader(store, registry, apart=True).load(row)


def test_a_task_can_be_given_and_isnt_kept(store: Store, root: Path) -> None:
    registry = ModelRegistry(store.home, store)
    for path in (root / "scoring").iterdir():
        path.unlink()
    loader = Loader(store, registry, lambda spec: make_tiny())
    served = loader.load(registry.find(f"{MODEL}@3"))
    assert served.run(np.zeros((2, 4), np.float32)).shape == (2, 2)
    assert list((root / "scoring").iterdir()) == []
    assert loader.load(registry.find(f"{MODEL}@3")) is served


def test_a_changed_byte_of_an_artifact_is_an_error(store: Store) -> None:
    registry = ModelRegistry(store.home, store)
    row = registry.find(f"{MODEL}@2")
    path = registry.path(row["artifact"])
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    with pytest.raises(StorageError):
        Loader(store, registry).load(row)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "must be"),
        ([[1, 2]], r"inputs.shape=\[1, 2\] must be \[n, 3\]"),
        ([1, 2, 3], "must be"),
        ([[1, 2, 3], [1, 2]], "not one array"),
        ([[1, 2, "3"]], "something else than numbers"),
        ([[1, 2, None]], "something else"),
        ([[True, False, True]], "something else"),
        ([[1, 2, 10**400]], "something else"),
        ([[1, 2, 1e39]], r"inputs\[0\] has a number that isn't finite"),
        ([[1, 2, 3], [1, float("nan"), 3]], r"inputs\[1\]"),
        ([{"a": 1}], "must be"),
        ("abc", "must be"),
        (None, "must be"),
        (7, "must be"),
    ],
)
def test_what_isnt_records_is_named(given: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        as_records(given, "float32", (3,))


def test_whole_numbers_must_fit_and_be_whole() -> None:
    assert as_records([[1, 2]], "int64", (2,)).dtype == np.int64
    with pytest.raises(ConfigError, match="something else"):
        as_records([[1.0, 2.0]], "int64", (2,))
    with pytest.raises(ConfigError, match="beyond"):
        as_records([[1, 300]], "uint8", (2,))
    with pytest.raises(ConfigError, match="beyond"):
        as_records([[1, -1]], "uint8", (2,))
