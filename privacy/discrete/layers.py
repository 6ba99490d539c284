"""A client's share of the noise, in layers that can be taken off when nobody drops out.

After XNoise (Jiang, Wang, Chen 2024, "Dordis: Efficient Federated Learning with
Dropout-Resilient Differential Privacy", EuroSys, arXiv:2209.12528): with n clients, of whom
up to T may drop, each adds a base share of variance v/n and layers k = 1..T of variance
v/((n-k)(n-k+1)). When d <= T have dropped, the survivors' layers above d are removed, and

    (n-d) (1/n + sum_{k=1}^{d} 1/((n-k)(n-k+1))) v = v:

the sum carries noise of variance v, neither less nor more, whatever n and d. That it doesn't
depend on n is also what lets the released sum be a Poisson-sampled *shift* of one law.

Guarantees: layer k+1's key is a one-way function of layer k's (SHA-256), so that revealing
one key reveals the layers from there on and none below; a removed layer is regenerated
exactly (`tacit.privacy.discrete.table`). Skellam shares add up to a Skellam variable of
variance v; discrete Gaussians to within `closeness` (`tacit.privacy.discrete.renyi`).
It doesn't guarantee that the others added theirs: what is claimed counts on the survivors
that are honest. Variances are doubles: v is met to one part in 10^15.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.privacy import validate
from tacit.privacy.discrete.pmf import DiscreteGaussian, Law, Skellam
from tacit.privacy.discrete.table import table
from tacit.privacy.errors import ConfigError

SEED_BYTES = 16
LAWS: dict[str, Callable[[float], Law]] = {
    "skellam": Skellam,
    "discrete_gaussian": DiscreteGaussian,
}


def tolerated(clients: int, dropout: float) -> int:
    """T, how many of ``clients`` may drop: the fraction, rounded down."""
    return math.floor(clients * dropout)


def chain(seed: bytes, layers: int) -> list[bytes]:
    """The seeds of layers 1..``layers``, each the hash of the one before."""
    seeds = []
    for _ in range(layers):
        seeds.append(seed)
        seed = _hash(b"next", seed)[:SEED_BYTES]
    return seeds


@dataclass(frozen=True, slots=True)
class Shares:
    """The noise of one round's vectors.

    Attributes:
        law: "skellam" or "discrete_gaussian".
        variance: of the whole noise in each coordinate, in integer units; 0 adds none.
        clients: n, how many add a share.
        layers: T, how many of them may drop; below n.
        length: coordinates.
    """

    law: str
    variance: float
    clients: int
    layers: int
    length: int

    def __post_init__(self) -> None:
        validate.one_of("mechanism", self.law, LAWS)
        validate.nonnegative("variance", self.variance)
        validate.at_least("clients", self.clients, 1)
        validate.at_least("layers", self.layers, 0)
        validate.at_least("length", self.length, 1)
        if self.layers >= self.clients:
            raise ConfigError(f"layers={self.layers} must be below clients={self.clients}")

    def layer_variance(self, k: int) -> float:
        """Variance of one client's layer ``k``; 0 is the base share."""
        left = self.clients - k
        return self.variance / (self.clients if k == 0 else left * (left + 1))

    def add(self, vector: NDArray[np.int64], base: bytes, seed: bytes) -> None:
        """Adds one client's whole share to its vector, in place.

        Args:
            vector: shape [length].
            base: 32 bytes, of the base share, never revealed.
            seed: `SEED_BYTES` bytes, of layer 1.
        """
        if self.variance > 0:
            vector += self._draw(0, base)
            for k, own in enumerate(chain(seed, self.layers), 1):
                vector += self._draw(k, _hash(b"layer", own))

    def surplus(self, first: int, seeds: Sequence[bytes]) -> NDArray[np.int64]:
        """What the layers from ``first`` on add up to, over clients.

        Args:
            first: d + 1 when d clients have dropped.
            seeds: each survivor's seed of layer ``first``.
        """
        total = np.zeros(self.length, dtype=np.int64)
        if self.variance > 0:
            for seed in seeds:
                for k, own in enumerate(chain(seed, self.layers - first + 1), first):
                    total += self._draw(k, _hash(b"layer", own))
        return total

    def _draw(self, k: int, key: bytes) -> NDArray[np.int32]:
        return table(LAWS[self.law](self.layer_variance(k))).sample(self.length, key)


def _hash(word: bytes, seed: bytes) -> bytes:
    return hashlib.sha256(b"tacit noise " + word + b"\x00" + seed).digest()
