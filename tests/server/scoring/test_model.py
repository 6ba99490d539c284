"""What is loaded is what was released; what is kept beside it is used only if it is signed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scoring import MODEL
from tiny import make_tiny

from tacit.privacy.errors import ConfigError, StorageError
from tacit.server.registry import ModelRegistry
from tacit.server.scoring.model import Loader, as_records
from tacit.server.store import Store
from tacit.tasks import scoring


def kept(root: Path) -> Path:
    return next((root / "scoring").glob("*.json"))


def test_a_structure_is_kept_signed_and_made_anew_if_it_was_changed(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = ModelRegistry(store.home, store)
    row = registry.find(f"{MODEL}@2")
    exports, real = [], scoring.template
    monkeypatch.setattr(scoring, "template", lambda *a: exports.append(1) or real(*a))
    first = Loader(store, registry).load(row)
    assert len(exports) == 1
    assert Loader(store, registry).load(row).graph.digest == first.graph.digest
    assert len(exports) == 1
    whole = kept(root).read_text()
    for change in ({"shape": [5]}, {"graph": "AAAA"}, {"signature": "AAAA"}, {"rows": 1}):
        kept(root).write_text(json.dumps({**json.loads(whole), **change}))
        before = len(exports)
        assert Loader(store, registry).load(row).graph.digest == first.graph.digest
        assert len(exports) == before + 1
        assert kept(root).read_text() == whole
    kept(root).write_text("no")
    assert Loader(store, registry).load(row).graph.digest == first.graph.digest


def test_a_task_can_be_given_and_isnt_kept(store: Store, root: Path) -> None:
    registry = ModelRegistry(store.home, store)
    loader = Loader(store, registry, lambda spec: make_tiny())
    served = loader.load(registry.find(f"{MODEL}@3"))
    assert served.run(np.zeros((2, 4), np.float32)).shape == (2, 2)
    assert not (root / "scoring").exists()
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
