"""Splits pooled data into simulated clients, with flwr-datasets' partitioners.

Except "iid", the default: it is what `IidPartitioner` makes of the records in a random order,
without the seconds that importing flwr-datasets takes.
"""

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
    records = len(next(iter(columns.values())))
    _check(columns, records, clients, how)
    if how.kind == "iid":
        order = np.random.default_rng(seed % 2**32).permutation(records)
        return np.array_split(order, clients)
    return _by_flower(columns[how.column], clients, how, seed % 2**32)


def _by_flower(column: Any, clients: int, how: PartitionSpec, seed: int) -> list[Indices]:
    from datasets import Dataset
    from flwr_datasets import partitioner as flower

    partitioner: Any
    if how.kind == "dirichlet":
        partitioner = flower.DirichletPartitioner(
            clients, how.column, how.alpha, min_partition_size=0, seed=seed
        )
    elif how.kind == "shards":
        partitioner = flower.ShardPartitioner(
            clients, how.column, num_shards_per_partition=how.shards, seed=seed
        )
    else:
        partitioner = flower.NaturalIdPartitioner(how.column)
    values = np.asarray(column)
    partitioner.dataset = Dataset.from_dict({"index": np.arange(len(values)), how.column: values})
    if partitioner.num_partitions < clients:
        raise DataError(
            f"clients={clients} is more than the {partitioner.num_partitions} ids in column "
            f"{how.column!r}"
        )
    # What libraries print mustn't mix with ``--json`` on stdout.
    with contextlib.redirect_stdout(sys.stderr):
        parts = [partitioner.load_partition(k) for k in range(clients)]
    # The column as a whole: without [:] it is read value by value.
    return [np.asarray(part["index"][:], dtype=np.int64) for part in parts]


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
