"""What a cohort engine is given, and what it owes: the serial trainer's updates.

An engine computes, for each job, what `tacit.client.trainer.Trainer` computes for that client
alone: the same batches, the same noise, and sums that differ by rounding only. Batches and
noise come in from outside, drawn by each client's own streams, so no engine draws anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tacit.privacy import validate
from tacit.privacy.messages import Vector


class UnsupportedError(Exception):
    """An engine can't train this model; the text says why, in a few words."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How every client trains.

    Attributes:
        steps: of SGD.
        learning_rate: its.
        proximal: FedProx's mu, 0 for none.
        clip: L2 bound of a record's gradient; None trains without DP-SGD, on the mean
            gradient of each batch.
        denominator: what a clipped sum is divided by; unused without ``clip``.
        noise: standard deviation of the noise on a clipped sum, in the gradients' units.
        summed: whether an update is the single step's clipped sum, scaled, in doubles
            (`Trainer._summed_step`), instead of local minus global.
        physical_batch: most records in memory at once.
    """

    steps: int
    learning_rate: float
    proximal: float
    clip: float | None
    denominator: float
    noise: float
    summed: bool
    physical_batch: int

    def __post_init__(self) -> None:
        validate.at_least("steps", self.steps, 1)
        validate.positive("learning_rate", self.learning_rate)
        validate.nonnegative("proximal", self.proximal)
        validate.nonnegative("noise", self.noise)
        validate.positive("denominator", self.denominator)
        validate.at_least("physical_batch", self.physical_batch, 1)
        if self.clip is not None:
            validate.positive("clip", self.clip)


class Normals(Protocol):
    """A client's stream of noise."""

    def normal32(self, size: int) -> NDArray[np.float32]:
        """``size`` standard normals in single precision."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One client's local training.

    Attributes:
        inputs: the client's records, records in dimension 0; may be empty.
        targets: theirs.
        rows: for each step the rows of its batch, int64, ascending; may be empty.
        noise: the client's stream; one draw of d a step, in the steps' order. None without
            noise.
    """

    inputs: Tensor
    targets: Tensor
    rows: Sequence[NDArray[np.int64]]
    noise: Normals | None


class Engine(Protocol):
    """Trains many clients from one model.

    Attributes:
        name: as users see it.
    """

    name: str

    def updates(self, parameters: Vector, jobs: Sequence[Job]) -> Sequence[NDArray[Any] | None]:
        """Each job's update, in the jobs' order.

        Args:
            parameters: the round's model, shape [d]; not modified.
            jobs: of some clients.

        Returns:
            Arrays of shape [d]: float32, or float64 where the recipe is ``summed``. None where
            an engine leaves a client to the serial trainer, for a gradient that isn't finite
            in its arithmetic.
        """
