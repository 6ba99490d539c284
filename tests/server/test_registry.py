"""Artifacts are what their digest says, or an error."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import safetensors.numpy

from tacit.privacy.errors import StorageError
from tacit.server.home import Home
from tacit.server.registry import ModelRegistry, encode
from tacit.server.store import Store


@pytest.fixture
def registry(home: Home, store: Store) -> ModelRegistry:
    return ModelRegistry(home, store)


ARRAYS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.zeros(4, dtype=np.float32)}


def test_an_artifact_is_named_by_its_digest_and_reads_back(registry: ModelRegistry) -> None:
    digest = registry.put(ARRAYS)
    data = registry.path(digest).read_bytes()
    assert hashlib.sha256(data).hexdigest() == digest
    assert set(safetensors.numpy.load(data)) == {"a", "b"}
    for name, array in registry.get(digest).items():
        np.testing.assert_array_equal(array, ARRAYS[name])


def test_equal_arrays_give_equal_bytes_in_any_order() -> None:
    assert encode(ARRAYS) == encode(dict(reversed(ARRAYS.items())))
    assert encode(ARRAYS) != encode({**ARRAYS, "a": np.ones(4, dtype=np.float32)})


@pytest.mark.parametrize("position", [0, 50, -1])
def test_one_changed_byte_is_an_error(registry: ModelRegistry, position: int) -> None:
    digest = registry.put(ARRAYS)
    path = registry.path(digest)
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(StorageError, match="corrupted"):
        registry.get(digest)


def test_a_missing_artifact_is_an_error(registry: ModelRegistry) -> None:
    digest = registry.put(ARRAYS)
    registry.path(digest).unlink()
    with pytest.raises(StorageError, match="can't be read"):
        registry.data(digest)


def test_a_half_written_artifact_is_written_again(registry: ModelRegistry) -> None:
    digest = registry.put(ARRAYS)
    registry.path(digest).write_bytes(b"half")
    assert registry.put(ARRAYS) == digest
    assert set(registry.get(digest)) == {"a", "b"}


def test_an_unknown_model_is_an_error_with_a_hint(registry: ModelRegistry) -> None:
    with pytest.raises(StorageError, match="models list"):
        registry.find("nobody@1")
