"""Local training on a device: DP-SGD by an exported graph, with this device's own noise.

Guarantees, with the device running this code: one step releases the sum of the gradients of a
Poisson-sampled batch, each of L2 norm at most ``clip``, plus N(0, (z * clip)^2 I), over the
plan's denominator: the mechanism of `tacit.client.dpsgd`, in doubles until the noise is in. Batch
and noise are drawn from the operating system's CSPRNG. Where the plan's shares of noise
protect records, none is added here and the one step's update stays in doubles.

What differs from `tacit.client.trainer`: a record with a NaN or an infinity in it never counts
(`tacit.tasks.device.graph`), and clipped gradients are added in doubles, as the graph gives
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tacit.client.edge.data import Records
from tacit.client.edge.runtime import Graph
from tacit.privacy.errors import RoundError
from tacit.privacy.messages import Vector
from tacit.privacy.noise import Source, SystemSource, coins
from tacit.privacy.plan import PrivacyPlan
from tacit.protocol.document import RunDocument

Rows = NDArray[np.int64]
Update = Vector | NDArray[np.float64]


class Trainer(Protocol):
    """What a member trains and scores with; `LocalTrainer` is the real one."""

    def fits(self, document: RunDocument, purpose: str) -> None:
        """Refuses what can't be run on these records, by types and shapes alone.

        Raises:
            DataError: the records can't be read, or aren't the task's.
            ModelError: the graph can't be loaded.
        """

    def train(self, document: RunDocument, parameters: Vector) -> tuple[Update, int]:
        """Local minus global, shape [d], not clipped, and how many records there are."""

    def counts(self, document: RunDocument, parameters: Vector) -> Vector:
        """What a federated evaluation gets of this device, shape [3]."""


class LocalTrainer:
    """Trains on the records of a file; keeps none of them, and one graph, between calls.

    Args:
        data: reads the records.
        graph: gives the bytes of a graph by its SHA-256, 32 bytes.
        threads: of training.
    """

    def __init__(
        self, data: Callable[[], Records], graph: Callable[[bytes], bytes], threads: int = 1
    ) -> None:
        self._data, self._bytes, self._threads = data, graph, threads
        self._graph: Graph | None = None

    def fits(self, document: RunDocument, purpose: str) -> None:
        """See `Trainer.fits`."""
        self._both(document, purpose)

    def train(self, document: RunDocument, parameters: Vector) -> tuple[Update, int]:
        """See `Trainer.train`."""
        graph, data = self._both(document, "train")
        return update(document, graph, parameters, data, drawn(document, len(data))), len(data)

    def counts(self, document: RunDocument, parameters: Vector) -> Vector:
        """See `Trainer.counts`."""
        graph, data = self._both(document, "evaluate")
        return counts(document.plan, graph, parameters, data)

    def _both(self, document: RunDocument, purpose: str) -> tuple[Graph, Records]:
        manifest = document.step if purpose == "train" else document.evaluation
        assert manifest is not None
        if self._graph is None or self._graph.manifest != manifest:
            self._graph = None
            data = self._bytes(bytes.fromhex(manifest.graph))
            self._graph = Graph(data, manifest, self._threads)
        records = self._data()
        records.fit(manifest)
        return self._graph, records


def drawn(document: RunDocument, records: int, source: Source | None = None) -> list[Rows]:
    """The rows of each step's batch: each record independently (Poisson sampling).

    Args:
        document: of the run; its plan has a record unit.
        records: how many there are.
        source: of the coins; None takes the operating system's.
    """
    unit = document.plan.record
    assert unit is not None
    coin = source or SystemSource()
    return [np.flatnonzero(coins(coin, records, unit.sampling_rate)) for _ in range(unit.steps)]


def update(
    document: RunDocument,
    graph: Graph,
    parameters: Vector,
    data: Records,
    rows: Sequence[Rows],
    noise: Source | None = None,
) -> Update:
    """A device's update.

    Args:
        document: of the run; its plan has a record unit.
        graph: the document's step.
        parameters: the global model, shape [d].
        data: this device's records, which fit the graph.
        rows: of each step's batch.
        noise: of DP-SGD; None takes the operating system's.

    Returns:
        Local minus global, shape [d], float32; in doubles where records are protected by
        shares of noise. Not clipped.

    Raises:
        RoundError: the parameters aren't as many as the graph's.
        ModelError: the graph can't be run.
    """
    plan, training = document.plan, document.training
    unit = plan.record
    assert unit is not None
    if parameters.shape != (graph.manifest.size,):
        raise RoundError(f"parameters={parameters.size} aren't the graph's {graph.manifest.size}")
    if plan.noised_by_shares():
        # The difference of two models in single precision would round to the parameters' grid
        # before the noise is there: a record could move it by more than its clip.
        assert unit.steps == len(rows) == 1
        scale = -training.learning_rate / unit.denominator
        return summed(graph, parameters, data, rows[0], unit.clip) * scale
    start = parameters.astype(np.float32)
    here, rate = start.copy(), np.float32(training.learning_rate)
    deviation = unit.noise_multiplier * unit.clip
    source = noise or SystemSource()
    for batch in rows:
        total = summed(graph, here, data, batch, unit.clip)
        if deviation > 0:
            # Before anything is rounded: how the sum rounds depends on each record.
            total += source.normal(len(total)) * deviation
        step = (total / unit.denominator).astype(np.float32)
        if training.proximal > 0:
            # FedProx: mu * (w - w_global), which no record influences beyond w.
            step += np.float32(training.proximal) * (here - start)
        here -= rate * step
    return here - start


def summed(
    graph: Graph, parameters: Vector, data: Records, rows: Rows, clip: float
) -> NDArray[np.float64]:
    """The sum of clipped gradients of some records, shape [d]; of none, zeros."""
    total = np.zeros(graph.manifest.size)
    feeds = {"parameters": parameters, "clip": np.array(clip, dtype=np.float32)}
    for batch in graph.batches(data.inputs[rows], data.targets[rows]):
        total += graph.run({**feeds, **batch})["sum"]
    return total


def counts(
    plan: PrivacyPlan,
    graph: Graph,
    parameters: Vector,
    data: Records,
    noise: Source | None = None,
) -> Vector:
    """What a device submits to a federated evaluation (`tacit.privacy.units.Evaluation`).

    Args:
        plan: of the run; it evaluates.
        graph: the document's evaluation.
        parameters: the global model, shape [d].
        data: this device's records, which fit the graph.
        noise: of the record unit; None takes the operating system's.

    Returns:
        Shape [3]: (score, records, clipped loss), each over ``cap``; with record-level DP
        plus the device's own noise.
    """
    how = plan.evaluation
    assert how is not None
    if parameters.shape != (graph.manifest.size,):
        raise RoundError(f"parameters={parameters.size} aren't the graph's {graph.manifest.size}")
    x, y = data.inputs[: how.cap], data.targets[: how.cap]
    sums = np.array([0.0, float(len(x)), 0.0])
    for batch in graph.batches(x, y):
        made = graph.run({"parameters": parameters, **batch})
        there = batch["mask"]
        right = np.nan_to_num(made["score"][there].astype(np.float64)).clip(0.0, 1.0)
        loss = np.nan_to_num(made["loss"][there].astype(np.float64), nan=how.loss_cap)
        sums[0] += right.sum()
        sums[2] += (loss.clip(0.0, how.loss_cap) / how.loss_cap).sum()
    if plan.record is not None and not plan.noised_by_shares():
        source = noise or SystemSource()
        sums += plan.record.noise_multiplier * how.SENSITIVITY * source.normal(3)
    return (sums / how.cap).astype(np.float32)
