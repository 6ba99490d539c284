"""`tacit.tasks.partition`: every record goes to at most one client, as the kind says."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from datasets import Dataset
from flwr_datasets.partitioner import IidPartitioner

from tacit.configs.spec import PartitionSpec
from tacit.privacy.errors import DataError
from tacit.tasks import partition

LABELS = np.arange(1000) // 100  # Sorted, so that an unshuffled split would show.


def how(kind: str, alpha: float = 0.5, shards: int = 2, column: str = "label") -> PartitionSpec:
    return PartitionSpec(kind, alpha, shards, column)


def split(clients: int, spec: PartitionSpec, seed: int = 3) -> list[partition.Indices]:
    return partition.split({"label": LABELS}, clients, spec, seed)


def skew(parts: list[partition.Indices]) -> float:
    """Mean over the non-empty clients of the share of their commonest label."""
    found = [np.bincount(LABELS[p], minlength=10).max() / len(p) for p in parts if len(p)]
    return float(np.mean(found))


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "shards"])
@pytest.mark.parametrize("clients", [1, 7, 40])
def test_no_record_has_two_clients(kind: str, clients: int) -> None:
    parts = split(clients, how(kind))
    rows = np.concatenate(parts)
    assert len(parts) == clients
    assert len(rows) == len(set(rows.tolist()))
    assert rows.min() >= 0
    assert rows.max() < len(LABELS)


@pytest.mark.parametrize("kind", ["iid", "dirichlet"])
@pytest.mark.parametrize("clients", [1, 7, 40])
def test_every_record_has_a_client(kind: str, clients: int) -> None:
    assert sorted(np.concatenate(split(clients, how(kind)))) == list(range(len(LABELS)))


def test_iid_clients_are_of_equal_size_and_see_most_labels() -> None:
    parts = split(7, how("iid"))
    assert {len(p) for p in parts} <= {142, 143}
    assert skew(parts) < 0.25


@pytest.mark.parametrize("clients", [1, 7, 40, 1000])
def test_iid_is_flowers_partition_of_shuffled_records(clients: int) -> None:
    order = np.random.default_rng(3).permutation(len(LABELS))
    flower = IidPartitioner(clients)
    flower.dataset = Dataset.from_dict({"index": order})
    for k, part in enumerate(split(clients, how("iid"), 3)):
        assert part.tolist() == flower.load_partition(k)["index"][:]


def test_iid_needs_nothing_of_flower() -> None:
    # Importing it takes a second or two, at the start of every simulation.
    code = (
        "import sys, numpy; from tacit.configs.spec import PartitionSpec; "
        "from tacit.tasks import partition; "
        "partition.split({'label': numpy.zeros(9)}, 3, PartitionSpec('iid', 1.0, 1, 'label'), 0); "
        "sys.exit(bool({'datasets', 'flwr_datasets'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "shards"])
def test_the_seed_decides_the_split(kind: str) -> None:
    one, same, other = (split(7, how(kind), seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_seed_of_63_bits_is_welcome() -> None:
    assert len(split(5, how("dirichlet"), 2**62 + 1)) == 5


def test_a_small_alpha_is_skewed_and_a_large_one_isnt() -> None:
    assert skew(split(10, how("dirichlet", alpha=0.01))) > 0.6
    assert skew(split(10, how("dirichlet", alpha=1000.0))) < 0.2


def test_dirichlet_clients_may_be_empty() -> None:
    parts = split(300, how("dirichlet", alpha=0.05))
    assert min(len(p) for p in parts) == 0
    assert sum(len(p) for p in parts) == len(LABELS)


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_a_client_has_at_most_as_many_labels_as_shards(shards: int) -> None:
    # 1000 / (20 * shards) divides the 100 records of a label only for 1 and 2; where it
    # doesn't, each shard may straddle two labels.
    most = shards if 100 % (1000 // (20 * shards)) == 0 else 2 * shards
    parts = split(20, how("shards", shards=shards))
    assert all(1 <= len(set(LABELS[p].tolist())) <= most for p in parts)
    assert all(len(p) == shards * (1000 // (20 * shards)) for p in parts)


def test_natural_clients_are_the_ids_of_the_column() -> None:
    writers = np.array(["ann", "bob", "cyd"])[np.arange(60) % 3]
    columns = {"label": np.zeros(60), "writer": writers}
    parts = partition.split(columns, 3, how("natural", column="writer"), 0)
    assert sorted(np.concatenate(parts)) == list(range(60))
    assert {tuple(set(writers[p])) for p in parts} == {("ann",), ("bob",), ("cyd",)}


def test_a_missing_column_lists_those_there_are() -> None:
    columns = {"label": LABELS, "age": LABELS}
    with pytest.raises(DataError, match="'writer'; the data has age, label") as caught:
        partition.split(columns, 3, how("natural", column="writer"), 0)
    assert "partition.column" in caught.value.hint


@pytest.mark.parametrize(
    ("kind", "clients"), [("iid", 1001), ("shards", 501), ("natural", 11), ("dirichlet", 1001)]
)
def test_too_many_clients_are_refused_by_their_number(kind: str, clients: int) -> None:
    with pytest.raises(DataError, match=f"clients={clients}"):
        split(clients, how(kind))


def test_nothing_is_printed_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("iid", "dirichlet", "shards", "natural"):
        split(10, how(kind))
    assert capsys.readouterr().out == ""
