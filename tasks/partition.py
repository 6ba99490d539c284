"""Splits pooled data into simulated clients, with flwr-datasets' partitioners."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.configs.spec import PartitionSpec
from tacit.privacy.errors import DataError

Indices = NDArray[np.int64]


def split(columns: dict[str, Any], clients: int, how: PartitionSpec, seed: int) -> list[Indices]:
    """Which records each client has.

    Args:
        columns: of the pooled data, each with one value a record; "label" for partitions by
            label, ``how.column`` for natural ones.
        clients: number of clients; some may end up with no records.
        how: the partition.
        seed: of the partition, which is part of the simulated world and protects nobody.

    Returns:
        For each client, indices into the records, disjoint.

    Raises:
        DataError: the column isn't there, or the data has too few records or ids.
    """
    # flwr-datasets and the datasets library take seconds to import.
    from datasets import Dataset
    from flwr_datasets import partitioner as flower

    records = len(next(iter(columns.values())))
    column = how.column if how.kind != "iid" else None
    _check(columns, records, clients, how)
    made: dict[str, Any] = {"index": np.arange(records)}
    if column is not None:
        made[column] = np.asarray(columns[column])
    made_seed = seed % 2**32
    partitioner: Any
    if how.kind == "iid":
        # The partitioner deals consecutive records, so the order is shuffled first.
        made["index"] = np.random.default_rng(made_seed).permutation(records)
        partitioner = flower.IidPartitioner(clients)
    elif how.kind == "dirichlet":
        partitioner = flower.DirichletPartitioner(
            clients, column, how.alpha, min_partition_size=0, seed=made_seed
        )
    elif how.kind == "shards":
        partitioner = flower.ShardPartitioner(
            clients, column, num_shards_per_partition=how.shards, seed=made_seed
        )
    else:
        partitioner = flower.NaturalIdPartitioner(column)
    partitioner.dataset = Dataset.from_dict(made)
    if partitioner.num_partitions < clients:
        raise DataError(
            f"clients={clients} is more than the {partitioner.num_partitions} ids in column "
            f"{column!r}"
        )
    # What libraries print mustn't mix with ``--json`` on stdout.
    with contextlib.redirect_stdout(sys.stderr):
        parts = [partitioner.load_partition(k) for k in range(clients)]
    return [np.asarray(part["index"], dtype=np.int64) for part in parts]


def _check(columns: dict[str, Any], records: int, clients: int, how: PartitionSpec) -> None:
    if how.kind != "iid" and how.column not in columns:
        raise DataError(
            f"partition={how.kind} needs a column {how.column!r}; the data has "
            f"{', '.join(sorted(columns))}",
            "name another with partition.column=",
        )
    if how.kind == "shards" and clients * how.shards > records:
        raise DataError(
            f"partition.shards={how.shards} for clients={clients} needs as many records; "
            f"there are {records}"
        )
    if how.kind in ("iid", "dirichlet") and clients > records:
        raise DataError(f"clients={clients} is more than the {records} records of the data")
