"""``experiment=fashion_mnist``: 60,000 training and 10,000 test images, 28x28, 10 classes."""

from __future__ import annotations

import functools
import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tacit.configs.spec import PartitionSpec, RunSpec
from tacit.privacy.errors import DataError
from tacit.privacy.noise import Randomness
from tacit.tasks import features, models, partition
from tacit.tasks.task import Records, Task

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
HUB = "zalando-datasets/fashion_mnist"
Split = tuple[torch.Tensor, torch.Tensor]
MODELS: dict[str, models.Choice] = {
    "gabor_cnn": (models.gabor_cnn, features.gabor),
    "gabor_linear": (lambda: models.linear(784, 10, scale=4.0), features.gabor),
    "tanh_cnn": (models.tanh_cnn, lambda images: 2 * images - 1),
}


def fashion_mnist(spec: RunSpec) -> Task:
    """Fashion-MNIST over ``spec.clients`` clients; its test images are the public test set.

    Models: "gabor_cnn" and "gabor_linear" on fixed Gabor features, "tanh_cnn" on pixels.
    """
    model, prepare = models.choose(MODELS, spec.model)
    where = (spec.data.root, spec.data.hub)
    (images, targets), (_, test_targets) = _load(*where)
    seed = Randomness(spec.seed or 0).number("partition")
    parts = _parts(*where, spec.clients, spec.partition, seed)

    @functools.cache
    def data(client: int) -> Records:
        rows = torch.from_numpy(parts[client])
        if prepare is features.gabor:
            return _gabor(*where)[rows], targets[rows]
        return prepare(_scaled(images[rows])), targets[rows]

    return Task(
        name="fashion_mnist",
        model=model,
        data=data,
        clients=spec.clients,
        examples_per_client=max(1, len(targets) // spec.clients),
        test=lambda: (_tested(*where, prepare), test_targets),
    )


# What runs share is kept: a sweep's runs have images, partitions and features in common.


@functools.lru_cache(maxsize=2)
def _load(root: str | None, hub: bool) -> tuple[Split, Split]:
    """Training and test images, bytes of shape [n, 1, 28, 28], with their labels."""
    folder = Path(root) if root is not None else DEBIAN
    if root is not None or folder.is_dir():
        return _idx(folder, "train"), _idx(folder, "t10k")
    if hub:
        return _from_hub()
    raise _nowhere("data.hub=false")


@functools.lru_cache(maxsize=8)
def _parts(
    root: str | None, hub: bool, clients: int, how: PartitionSpec, seed: int
) -> list[partition.Indices]:
    labels = _load(root, hub)[0][1]
    return partition.split({"label": labels.numpy()}, clients, how, seed)


@functools.lru_cache(maxsize=1)
def _gabor(root: str | None, hub: bool) -> features.Kept:
    images = _load(root, hub)[0][0]
    return features.Kept(images, lambda some: features.gabor(_scaled(some)))


@functools.lru_cache(maxsize=2)
def _tested(
    root: str | None, hub: bool, prepare: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    return prepare(_scaled(_load(root, hub)[1][0]))


def _scaled(images: torch.Tensor) -> torch.Tensor:
    # A constant, not a statistic of the data: it costs no privacy.
    return images.float().div_(255.0)


def _nowhere(why: str) -> DataError:
    return DataError(
        f"Fashion-MNIST isn't here ({why})",
        "apt-get install dataset-fashion-mnist; or data.root=FOLDER with its four idx files; "
        f"or data.hub=true where the hub's {HUB} can be reached",
    )


def _idx(folder: Path, split: str) -> Split:
    images = read_idx(_find(folder, f"{split}-images-idx3-ubyte"))
    labels = read_idx(_find(folder, f"{split}-labels-idx1-ubyte"))
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{folder}: {split} images have shape {images.shape}, labels {labels.shape}"
        )
    return _bytes(images), torch.from_numpy(labels.astype(np.int64))


def _bytes(images: np.ndarray) -> torch.Tensor:
    # A quarter of what they take scaled. A copy: what was read is read-only.
    return torch.from_numpy(images.copy()).unsqueeze(1)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise _nowhere(f"no {name} or {name}.gz in {folder}")


def read_idx(path: Path) -> np.ndarray:
    """Reads an idx file of unsigned bytes, gzipped or not (yann.lecun.com's format).

    Raises:
        DataError: the file is cut short or something else.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} can't be read: {error}") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise DataError(f"{path} is not an idx file of unsigned bytes")
    dimensions = raw[3]
    if len(raw) < 4 + 4 * dimensions:
        raise DataError(f"{path} is cut short")
    shape = struct.unpack_from(f">{dimensions}I", raw, 4)
    values = np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * dimensions)
    if values.size != int(np.prod(shape)):
        raise DataError(f"{path} has {values.size} values where {shape} was promised")
    return values.reshape(shape)


def _from_hub() -> tuple[Split, Split]:
    from flwr_datasets import FederatedDataset
    from flwr_datasets.partitioner import IidPartitioner

    try:
        hub = FederatedDataset(dataset=HUB, partitioners={"train": IidPartitioner(1)})
        splits = [hub.load_split(name) for name in ("train", "test")]
    except (OSError, ValueError, RuntimeError) as error:
        raise _nowhere(f"the hub: {type(error).__name__}") from error
    train, test = (
        (
            _bytes(np.stack([np.asarray(image) for image in split["image"]])),
            torch.tensor(split["label"]),
        )
        for split in splits
    )
    return train, test
