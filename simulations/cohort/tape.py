"""What a pass over a bucket leaves behind, from which per-record gradients are summed.

A bucket is C clients with m rows each, N = C * m rows in all, clients in blocks. Trained
layers are replaced by twins (`tacit.simulations.cohort.twins`) that use each client's own
parameters and, in the backward pass, write down the inputs and output gradients of every row
instead of adding up weight gradients. From these the tape makes each record's squared norm
and, given a factor for each record, each client's sum; a record's gradient itself is only made
where that is cheaper.

Guarantee: with factor f_i, a client's sum is the sum over its rows of f_i times the gradient of
record i's loss, as `opacus.grad_sample.GradSampleModule` has it, up to rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tacit.simulations.cohort.job import UnsupportedError


@dataclass(frozen=True, slots=True)
class Slot:
    """One trained parameter's place in the flat vector.

    Attributes:
        name: within its module.
        shape: its.
        start: offset of its first value.
    """

    name: str
    shape: torch.Size
    start: int

    @property
    def size(self) -> int:
        """How many values it has."""
        return self.shape.numel()


CPU = torch.device("cpu")


@dataclass
class Bucket:
    """What the twins of one model share while a bucket passes through.

    Attributes:
        device: that everything is on.
        clients: C.
        rows: m, of each client.
        parameters: shape [C, d], or [1, d] while all clients have the round's.
        anchor: a scalar that needs a gradient, so that the backward pass reaches every twin.
    """

    device: torch.device
    clients: int = 1
    rows: int = 1
    parameters: Tensor = field(init=False)
    anchor: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.parameters = self.zeros(1, 0)
        self.anchor = self.zeros().requires_grad_()

    @property
    def records(self) -> int:
        """N."""
        return self.clients * self.rows

    def zeros(self, *shape: int) -> Tensor:
        """Zeros of a shape."""
        return torch.zeros(shape, device=self.device)


class Core(ABC):
    """The trained parameters of one layer, and its tape.

    Args:
        bucket: shared by all cores of a model.
        slots: of its trained parameters.
        frozen: the others, by name.
    """

    def __init__(self, bucket: Bucket, slots: Sequence[Slot], frozen: dict[str, Tensor]) -> None:
        self.bucket, self.slots, self.frozen = bucket, {s.name: s for s in slots}, frozen
        # Which dimensions of its input can have the records, as far as was seen.
        self._axes = {0, 1}

    def get(self, name: str) -> Tensor | None:
        """A parameter, shape [C, *shape] or [1, *shape]; None if the layer hasn't got it."""
        slot = self.slots.get(name)
        if slot is None:
            held = self.frozen.get(name)
            return None if held is None else held.detach()[None]
        flat = self.bucket.parameters[:, slot.start : slot.start + slot.size]
        return flat.view(len(flat), *slot.shape)

    def trains(self, name: str) -> bool:
        """Whether a parameter is trained."""
        return name in self.slots

    def seen(self, x: Tensor) -> Tensor:
        """The input with the records in dimension 0.

        Raises:
            UnsupportedError: no dimension can be the records'.
        """
        size = self.bucket.records
        self._axes = {i for i in self._axes if x.dim() > i and x.shape[i] == size}
        if not self._axes:
            raise UnsupportedError("a layer's input has no dimension of records")
        return x.transpose(0, 1) if self._swapped else x

    def back(self, y: Tensor) -> Tensor:
        """An output with the records where the input had them."""
        return y.transpose(0, 1) if self._swapped else y

    @property
    def _swapped(self) -> bool:
        # Where both could be it is the first; if that is wrong the check against Opacus, whose
        # passes have several sizes, finds it.
        return 0 not in self._axes

    @abstractmethod
    def forget(self) -> None:
        """Empties the tape."""

    @abstractmethod
    def squares(self) -> Tensor:
        """Each record's squared gradient norm over this layer's parameters, shape [N]."""

    @abstractmethod
    def sums(self, factors: Tensor, into: Tensor) -> None:
        """Writes each client's weighted sum into its slots.

        Args:
            factors: of the records, shape [N].
            into: shape [C, d].
        """

    def write(self, name: str, values: Tensor, into: Tensor) -> None:
        """Puts a parameter's sums, [C, *shape], in their place."""
        slot = self.slots[name]
        into[:, slot.start : slot.start + slot.size] = values.reshape(len(values), slot.size)


def weighted(samples: Tensor, factors: Tensor, clients: int) -> Tensor:
    """Sums of the clients' rows: samples [N, *shape] and factors [N] to [C, *shape]."""
    flat = samples.reshape(clients, -1, samples[0].numel())
    summed = torch.bmm(factors.reshape(clients, 1, -1), flat)
    return summed.reshape(clients, *samples.shape[1:])


def add_rows(into: Tensor, index: Tensor, rows: Tensor) -> None:
    """Adds rows [n, ...] to those of ``into`` at ``index``, where one may come again.

    The order of a sum is the same each time, on a GPU too.
    """
    if into.device.type == "cpu":
        into.index_add_(0, index, rows)
    else:
        # There index_add_ has no order, and this, which is slower on a CPU, sorts first.
        into.index_put_((index,), rows, accumulate=True)


class Sampled(Core):
    """A core whose tape holds the records' gradients themselves, summed over its uses."""

    def forget(self) -> None:
        """Empties the tape."""
        self._samples: dict[str, Tensor] = {}

    def add(self, name: str, made: Tensor) -> None:
        """Adds one use of a parameter: its gradient for each record, [N, *shape]."""
        held = self._samples.get(name)
        self._samples[name] = made if held is None else held + made

    def squares(self) -> Tensor:
        """Each record's squared norm, shape [N]."""
        total = self.bucket.zeros(self.bucket.records)
        for made in self._samples.values():
            total = total + made.flatten(1).pow(2).sum(1)
        return total

    def sums(self, factors: Tensor, into: Tensor) -> None:
        """Each client's weighted sum."""
        clients = self.bucket.clients
        for name, slot in self.slots.items():
            made = self._samples.get(name)
            empty = self.bucket.zeros(clients, *slot.shape)
            self.write(name, empty if made is None else weighted(made, factors, clients), into)
