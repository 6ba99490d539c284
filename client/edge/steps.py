"""Local training on a device: DP-SGD by an exported graph, with this device's own noise.

Guarantees, with the device running this code: one step releases the sum of the gradients of a
Poisson-sampled batch, each of L2 norm at most ``clip``, plus N(0, (z * clip)^2 I), over the
plan's denominator: the mechanism of `tacit.client.dpsgd`, in doubles until the noise is in. Batch
and noise are drawn from the operating system's CSPRNG. Where the plan's shares of noise
protect records, none is added here and the one step's update stays in doubles.

No record adds more than ``clip``, whatever the graph computes: the graph gets one record a
call, and what it gives is clipped again, here. A record on which it fails, or gives what isn't
finite, adds zero, and nothing tells it from one that adds zero by itself but the time it takes.
So what a record adds is a function of the parameters and that record alone; a coordinator that
signs another graph than it should gets worse sums, not more of a record. The same of an
evaluation: each record gives a score in [0, 1] and a loss in [0, loss_cap]; one on which the
graph fails gives 0 and loss_cap.

What differs from `tacit.client.trainer`: a record with a NaN or an infinity in it never counts
(`tacit.tasks.device.graph`), and clipped gradients are added in doubles, as the graph gives
them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tacit.client.edge.data import Records
from tacit.client.edge.runtime import Graph
from tacit.privacy.errors import RoundError
from tacit.privacy.mechanisms import MARGIN
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


def drawn(document: RunDocument, records: int, source: Source | None = None) -> Iterator[Rows]:
    """The rows of each step's batch: each record independently (Poisson sampling).

    They are drawn as the step begins.

    Args:
        document: of the run; its plan has a record unit.
        records: how many there are.
        source: of the coins; None takes the operating system's.
    """
    unit = document.plan.record
    assert unit is not None
    coin = source or SystemSource()
    return (np.flatnonzero(coins(coin, records, unit.sampling_rate)) for _ in range(unit.steps))


def update(
    document: RunDocument,
    graph: Graph,
    parameters: Vector,
    data: Records,
    rows: Iterable[Rows],
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
    """
    unit = document.plan.record
    assert unit is not None
    if parameters.shape != (graph.manifest.size,):
        raise RoundError(f"parameters={parameters.size} aren't the graph's {graph.manifest.size}")
    clip = unit.clip

    def of(here: Vector, batch: Rows) -> NDArray[np.float64]:
        return summed(graph, here, data, batch, clip)

    return _descended(document, parameters, rows, of, noise)


def _descended(
    document: RunDocument,
    parameters: Vector,
    rows: Iterable[Rows],
    of: Callable[[Vector, Rows], NDArray[np.float64]],
    noise: Source | None = None,
) -> Update:
    """The steps, given the sum of clipped gradients of a batch at a model."""
    plan, training = document.plan, document.training
    unit = plan.record
    assert unit is not None
    if plan.noised_by_shares():
        # The difference of two models in single precision would round to the parameters' grid
        # before the noise is there: a record could move it by more than its clip.
        (batch,) = rows
        return of(parameters, batch) * (-training.learning_rate / unit.denominator)
    start = parameters.astype(np.float32)
    here, rate = start.copy(), np.float32(training.learning_rate)
    deviation = unit.noise_multiplier * unit.clip
    source = noise or SystemSource()
    for batch in rows:
        total = of(here, batch)
        if deviation > 0:
            # Before anything is rounded: how the sum rounds depends on each record.
            total += source.normal(len(total)) * deviation
        step = (total / unit.denominator).astype(np.float32)
        if training.proximal > 0:
            # FedProx: mu * (w - w_global), which no record influences beyond w.
            step += np.float32(training.proximal) * (here - start)
        here -= rate * step
    return here - start


def idle(document: RunDocument, parameters: Vector) -> Update:
    """The update of no records at all, with the noise that any update has.

    Args:
        document: as of `update`.
        parameters: the global model, shape [d].
    """
    unit = document.plan.record
    assert unit is not None
    nobody = itertools.repeat(np.zeros(0, dtype=np.int64), unit.steps)
    return _descended(document, parameters, nobody, lambda here, _: np.zeros(here.size))


def summed(
    graph: Graph, parameters: Vector, data: Records, rows: Rows, clip: float
) -> NDArray[np.float64]:
    """The sum of clipped gradients of some records, shape [d]; of none, zeros.

    Each record adds a function of the parameters and itself, of L2 norm at most ``clip``.
    """
    total = np.zeros(graph.manifest.size)
    feeds = {"parameters": parameters, "clip": np.array(clip, dtype=np.float32)}
    for row in rows:
        made = _alone(graph, feeds, data, int(row))
        if made is not None:
            total += bounded(made["sum"], clip)
    return total


def bounded(made: NDArray[Any], clip: float) -> NDArray[np.float64]:
    """What one record adds, of L2 norm at most ``clip``; zeros where it isn't finite."""
    own = made.astype(np.float64)
    with np.errstate(over="ignore"):
        norm = float(np.linalg.norm(own))
    if not math.isfinite(norm):
        return np.zeros_like(own)
    # The margin is for the rounding of norm and product.
    return own * (MARGIN * clip / norm) if norm > clip else own


def _alone(
    graph: Graph, feeds: Mapping[str, NDArray[Any]], data: Records, row: int
) -> dict[str, NDArray[Any]] | None:
    """What the graph gives for one record, beside which there is none; None if it fails."""
    try:
        return graph.run({**feeds, **graph.alone(data.inputs[row], data.targets[row])})
    except Exception:  # noqa: BLE001
        # Which record a graph fails on is the record's: nobody may see it, not even the log.
        return None


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
    records = min(len(data), how.cap)
    sums = np.array([0.0, float(records), 0.0])
    for row in range(records):
        made = _alone(graph, {"parameters": parameters}, data, row)
        score, loss = (0.0, how.loss_cap) if made is None else _scored(made, how.loss_cap)
        sums[0] += score
        sums[2] += loss / how.loss_cap
    return noised(plan, sums, noise)


def noised(plan: PrivacyPlan, sums: NDArray[np.float64], noise: Source | None = None) -> Vector:
    """Counts as they leave: with the device's own noise where there is some, over ``cap``.

    Args:
        plan: as of `counts`.
        sums: of score, records and loss over the cap of a loss; zeros are those of nobody.
        noise: as of `counts`.
    """
    how = plan.evaluation
    assert how is not None
    if plan.record is not None and not plan.noised_by_shares():
        source = noise or SystemSource()
        sums = sums + plan.record.noise_multiplier * how.SENSITIVITY * source.normal(3)
    return (sums / how.cap).astype(np.float32)


def _scored(made: Mapping[str, NDArray[Any]], cap: float) -> tuple[float, float]:
    """Score and loss of the one record, within [0, 1] and [0, cap] whatever was made."""
    score, loss = float(made["score"][0]), float(made["loss"][0])
    score = min(max(score, 0.0), 1.0) if math.isfinite(score) else 0.0
    return score, cap if math.isnan(loss) else min(max(loss, 0.0), cap)
