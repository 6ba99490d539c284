"""`tacit.tasks.fashion`: idx files are read exactly, or refused with a way out."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from tacit.configs import build
from tacit.privacy.errors import ConfigError, DataError
from tacit.tasks import fashion, features
from tacit.tasks.task import Task, load

NAMES = [f"{split}-{what}" for split in ("train", "t10k") for what in ("images", "labels")]


def idx(values: np.ndarray, magic: bytes = b"\x00\x00\x08") -> bytes:
    head = magic + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return head + values.tobytes()


def folder(at: Path, train: int = 24, test: int = 6) -> Path:
    """Four small idx files, the images gzipped."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("t10k", test)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (at / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (at / f"{split}-labels-idx1-ubyte").write_bytes(idx(labels))
    return at


def fashion_mnist(*overrides: str) -> Task:
    """The task on pixels in [-1, 1], unless another model is named."""
    spec = ["experiment=none", "task=fashion_mnist", "clients=6", "cohort=2", "partition=iid"]
    spec += ["evaluation=public", "model=tanh_cnn", "data.hub=false"]
    return load(build.compose([*spec, *overrides]))


@pytest.mark.parametrize("shape", [(5,), (3, 2), (2, 28, 28), (0,)])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_idx_file_is_read_back_gzipped_or_not(
    tmp_path: Path, shape: tuple[int, ...], suffix: str
) -> None:
    values = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    raw = idx(values)
    path = tmp_path / f"file{suffix}"
    path.write_bytes(gzip.compress(raw) if suffix else raw)
    np.testing.assert_array_equal(fashion.read_idx(path), values)


VALUES = np.arange(30, dtype=np.uint8).reshape(5, 6)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "not an idx file"),
        (b"\x00\x00", "not an idx file"),
        (idx(VALUES, b"\x00\x00\x0d"), "not an idx file"),
        (idx(VALUES, b"\x01\x00\x08"), "not an idx file"),
        (b"<html>not found</html>", "not an idx file"),
        (idx(VALUES)[:7], "cut short"),
        (idx(VALUES)[:-1], "29 values"),
        (idx(VALUES) + b"\x00", "31 values"),
    ],
)
def test_what_isnt_a_whole_idx_file_is_refused_by_its_path(
    tmp_path: Path, raw: bytes, why: str
) -> None:
    path = tmp_path / "some-file"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=why) as caught:
        fashion.read_idx(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize("damage", ["cut", "plain", "header", "body", "check"])
def test_a_damaged_gzip_is_refused_by_its_path(tmp_path: Path, damage: str) -> None:
    packed = bytearray(gzip.compress(idx(np.arange(200, dtype=np.uint8))))
    if damage == "cut":
        packed = packed[:-20]
    elif damage == "plain":
        packed = bytearray(idx(VALUES))
    else:
        packed[{"header": 0, "body": 10, "check": len(packed) - 6}[damage]] ^= 0xFF
    path = tmp_path / "some-file.gz"
    path.write_bytes(packed)
    with pytest.raises(DataError) as caught:
        fashion.read_idx(path)
    assert str(path) in caught.value.message


def test_a_folder_of_ones_own_is_split_over_the_clients(tmp_path: Path) -> None:
    task = fashion_mnist(f"data.root={folder(tmp_path)}")
    parts = [task.data(k) for k in range(6)]
    inputs, targets = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
    assert inputs.shape == (24, 1, 28, 28)
    assert inputs.dtype == torch.float32
    assert targets.dtype == torch.int64
    raw = fashion.read_idx(tmp_path / "train-images-idx3-ubyte.gz")
    sums = sorted(((raw.astype(np.float64) / 127.5) - 1).sum((1, 2)))
    np.testing.assert_allclose(sorted(inputs.double().sum((1, 2, 3))), sums, atol=1e-3)
    assert float(inputs.min()) >= -1
    assert float(inputs.max()) <= 1
    assert task.examples_per_client == 4
    assert task.test is not None
    assert len(task.test()[0]) == len(task.test()[1]) == 6
    assert task.model()(inputs[:3]).shape == (3, 10)


@pytest.mark.parametrize("model", ["gabor_cnn", "gabor_linear", "tanh_cnn"])
def test_each_model_takes_what_the_clients_have(tmp_path: Path, model: str) -> None:
    skewed = ("partition=dirichlet", "partition.alpha=0.05")
    task = fashion_mnist(f"data.root={folder(tmp_path)}", f"model={model}", "clients=24", *skewed)
    sizes = []
    for k in range(24):
        inputs, targets = task.data(k)
        assert task.model()(inputs).shape == (len(targets), 10)
        sizes.append(len(targets))
    assert min(sizes) == 0
    assert task.test is not None
    assert task.model()(task.test()[0]).shape == (6, 10)


def test_runs_share_the_features_of_an_image_whichever_client_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    gabor = features.gabor

    def counted(images: torch.Tensor) -> torch.Tensor:
        made.append(len(images))
        return gabor(images)

    monkeypatch.setattr(features, "gabor", counted)
    monkeypatch.setitem(fashion.MODELS, "gabor_cnn", (fashion.MODELS["gabor_cnn"][0], counted))
    where = f"data.root={folder(tmp_path)}"
    raw = torch.from_numpy(fashion.read_idx(tmp_path / "train-images-idx3-ubyte.gz").copy())
    due = gabor(raw.float().div(255.0).unsqueeze(1)).flatten(1)
    for seed in range(3):
        task = fashion_mnist(where, "model=gabor_cnn", f"seed={seed}")
        made_by_run = len(made)
        inputs = torch.cat([task.data(k)[0] for k in range(6)]).flatten(1)
        nearest = torch.cdist(inputs.double(), due.double()).min(1)
        assert sorted(nearest.indices.tolist()) == list(range(24))
        assert float(nearest.values.max()) < 1e-4
        assert (len(made) > made_by_run) is (seed == 0)
        assert task.test is not None
        task.test()
    # The first image once more, for the shape.
    assert sum(made) == 1 + 24 + 6


def test_a_model_it_doesnt_have_lists_those_it_has(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model=resnet must be one of gabor_cnn"):
        fashion_mnist(f"data.root={folder(tmp_path)}", "model=resnet")


@pytest.mark.parametrize("missing", NAMES)
def test_a_missing_file_is_named_with_the_three_ways_to_get_it(
    tmp_path: Path, missing: str
) -> None:
    folder(tmp_path)
    (path,) = tmp_path.glob(f"{missing}*")
    path.unlink()
    with pytest.raises(DataError, match=missing) as caught:
        fashion_mnist(f"data.root={tmp_path}", "data.hub=true")
    for way in ("apt-get install dataset-fashion-mnist", "data.root=", "data.hub=true"):
        assert way in caught.value.hint


def test_images_and_labels_of_different_number_are_refused(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(23, dtype=np.uint8)))
    with pytest.raises(DataError, match="train images"):
        fashion_mnist(f"data.root={tmp_path}")


def test_the_hub_isnt_asked_when_it_may_not_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion, "DEBIAN", tmp_path / "absent")
    fashion._load.cache_clear()
    with pytest.raises(DataError, match=r"data\.hub=false") as caught:
        fashion_mnist("data.root=null")
    assert "apt-get" in caught.value.hint


def test_debians_package_loads_whole() -> None:
    fashion._load.cache_clear()
    task = fashion_mnist(f"data.root={fashion.DEBIAN}")
    assert task.test is not None
    targets = torch.cat([task.data(k)[1] for k in range(6)])
    assert torch.bincount(targets).tolist() == [6000] * 10
    inputs, test_targets = task.test()
    assert inputs.shape == (10000, 1, 28, 28)
    assert torch.bincount(test_targets).tolist() == [1000] * 10
    # Means of the published images, 0.2860 before scaling to [-1, 1].
    assert float(task.data(0)[0].mean() + 1) / 2 == pytest.approx(0.286, abs=0.005)
    fashion._load.cache_clear()
