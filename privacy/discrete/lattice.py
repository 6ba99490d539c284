"""The lattice: how a bounded vector becomes integers, and how much noise its sum carries.

Guarantees, for a vector encoded by `tacit.privacy.discrete.encoder` under one `Lattice`:

* `l2` bounds what one *client* adds to the sum. With ``conditional``, rounding is repeated
  until the integers' norm is within Kairouz, Liu and Steinke 2021 (arXiv:2102.06387),
  Proposition 26: min{c^2 + d/4 + sqrt(2 ln(1/beta)) (c + sqrt(d)/2), (c + sqrt(d))^2} in
  integer units, which is checked exactly. Otherwise (c + sqrt(d)) bounds it.
* `record_l2` bounds what one *record* changes, where rounding is unconditional. Two vectors
  a and b rounded with one dither u, floor(a + u) - floor(b + u), differ by a vector that is
  distributed as the stochastic rounding of a - b: in each coordinate independently one of the
  two neighbouring integers, with the right mean. So the same proposition bounds its norm but
  for a probability of 2^-100, and |a - b| + sqrt(d) does for certain; given u, the mechanism
  is noise on a shifted vector, and a mixture over u on both sides is no worse than the worst
  u (joint quasi-convexity). 2^-100 is treated as the ciphers' own failure is.
* ``variance`` is that of the noise in the released sum, in each coordinate.

It doesn't guarantee that a sum fits its words: it is sized so that a coordinate wraps with
probability below 2 exp(-TAIL^2/2) even if all clients' updates point the same way. A wrap
costs accuracy, not privacy: reduction modulo 2^bits is post-processing.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from tacit.privacy import validate
from tacit.privacy.discrete.rotation import padded
from tacit.privacy.errors import ConfigError

WORD_BITS = (16, 20, 32)
TAIL = 6.0
# Rounding is accepted with probability at least 1 - e^-2.
_LN_INVERSE_BETA = 2.0
_LN_INVERSE_NEVER = 100.0 * math.log(2.0)
# Of a record's contribution: far above what doubles lose on the way to the lattice.
_SLACK = 1.0 + 2.0**-10
# The sampler's largest share: one client's, of the fewest that may make a sum.
LARGEST_DEVIATION = 2.0**15
_BEST_BITS_LOSS = 1.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Lattice:
    """One kind of vector on its way through a round.

    Attributes:
        dimension: coordinates of the vector, before padding.
        rotated: whether it is rotated, and so padded to a power of two.
        bits: of a word.
        norm: what the vector's bound is scaled to, in integer units.
        conditional: whether rounding is repeated until the norm is within `l2`.
        record_norm: what one record can move the vector by before rounding, in the same
            units; 0 where that isn't bounded by less than ``norm``.
        vote: integer that one more coordinate holds with either sign; 0 for none.
        variance: of the noise in each coordinate of the sum; 0 for none.
    """

    dimension: int
    rotated: bool
    bits: int
    norm: float
    conditional: bool
    variance: float
    record_norm: float = 0.0
    vote: int = 0

    def __post_init__(self) -> None:
        validate.at_least("dimension", self.dimension, 1)
        if self.bits not in WORD_BITS:
            raise ConfigError(f"secure.bits={self.bits} must be 16, 20 or 32")
        validate.positive("norm", self.norm)
        validate.nonnegative("record_norm", self.record_norm)
        validate.at_least("vote", self.vote, 0)
        validate.nonnegative("variance", self.variance)
        if self.conditional and self.record_norm > 0:
            raise ConfigError(
                f"conditional=True can't be combined with record_norm={self.record_norm:g}: "
                "repeated rounding depends on the other records"
            )
        if self.variance > LARGEST_DEVIATION**2 * (1 + 1e-9):
            raise ConfigError(f"variance={self.variance:g} must be at most 2^30")

    @property
    def coordinates(self) -> int:
        """Coordinates after padding, without the vote."""
        return padded(self.dimension) if self.rotated else self.dimension

    @property
    def length(self) -> int:
        """Words that a client sends."""
        return self.coordinates + (1 if self.vote else 0)

    @property
    def bound(self) -> float:
        """Largest L2 norm of the rounded vector, without the vote."""
        if self.conditional:
            return _rounded(self.norm, self.coordinates, _LN_INVERSE_BETA)
        return self.norm + math.sqrt(self.coordinates)

    @property
    def l2(self) -> float:
        """L2 sensitivity to one client, in integer units."""
        return math.hypot(self.bound, self.vote)

    @property
    def l1(self) -> float:
        """L1 sensitivity to one client."""
        return min(math.sqrt(self.length) * self.l2, self.l2**2)

    @property
    def record_l2(self) -> float:
        """L2 sensitivity to one record; where it has no bound of its own, the whole ball's."""
        if self.record_norm == 0:
            return 2.0 * self.bound
        rounded = _rounded(self.record_norm * _SLACK, self.coordinates, _LN_INVERSE_NEVER)
        return min(rounded, 2.0 * self.bound)

    @property
    def record_l1(self) -> float:
        """L1 sensitivity to one record."""
        return min(math.sqrt(self.length) * self.record_l2, self.record_l2**2)


def _rounded(norm: float, coordinates: int, ln_inverse_beta: float) -> float:
    """Norm of a stochastically rounded vector, but for a probability of beta."""
    root = math.sqrt(coordinates)
    spread = math.sqrt(2.0 * ln_inverse_beta) * (norm + root / 2.0)
    return min(math.sqrt(norm * norm + coordinates / 4.0 + spread), norm + root)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a lattice is sized for.

    Attributes:
        dimension: of the vector.
        rotated: see `Lattice`.
        clients: most vectors in one sum.
        noise_multiplier: standard deviation of the noise over the sensitivity, to one record
            if ``record_share`` is set, else to one client.
        record_share: what one record can move a vector by, over the vector's bound; or 0.
        count_noise: of the vote (`tacit.privacy.units.AdaptiveClip`), or None without one.
        conditional: see `Lattice`.
    """

    dimension: int
    rotated: bool
    clients: int
    noise_multiplier: float
    conditional: bool
    record_share: float = 0.0
    count_noise: float | None = None


def sized(need: Need, bits: int | None) -> Lattice:
    """The finest lattice whose sums fit into words.

    Args:
        need: of the plan.
        bits: of a word; None takes the fewest with which rounding costs under half a
            percent of noise, else the most.

    Raises:
        ConfigError: not even a norm of 1 fits.
    """
    choices = [bits] if bits is not None else list(WORD_BITS)
    for choice in choices:
        lattice = _finest(need, choice)
        whole = lattice.record_norm if need.record_share else lattice.norm
        rounded = lattice.record_l2 if need.record_share else lattice.bound
        if choice == choices[-1] or rounded <= _BEST_BITS_LOSS * whole:
            return lattice
    raise AssertionError("no choice of bits")


def _finest(need: Need, bits: int) -> Lattice:
    most = 2.0 ** (bits - 1) - 1
    if _at(need, bits, 1.0, most) is None:
        raise ConfigError(
            f"sums of {need.clients} vectors of {need.dimension} with "
            f"noise_multiplier={need.noise_multiplier:g} don't fit words of {bits} bits",
            "use secure.bits=32, a smaller cohort or a smaller noise multiplier",
        )
    low, high = 0.0, 32.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _at(need, bits, 2.0**middle, most) is None else (middle, high)
    # An integer, so that the plan is the same everywhere.
    found = _at(need, bits, math.floor(2.0**low), most)
    assert found is not None
    return found


def _at(need: Need, bits: int, norm: float, most: float) -> Lattice | None:
    """A lattice of this norm, or None if its sums could exceed ``most``."""
    bare = Lattice(
        dimension=need.dimension,
        rotated=need.rotated,
        bits=bits,
        norm=norm,
        conditional=need.conditional,
        record_norm=norm * need.record_share,
        variance=0.0,
    )
    z, vote = need.noise_multiplier, 0
    deviation = z * (bare.record_l2 if need.record_share else bare.bound)
    if need.count_noise is not None:
        # (z_update^-2 + (2 count_noise)^-2)^(-1/2) = z: Andrew et al. 2021, Theorem 1.
        deviation /= math.sqrt(1.0 - (z / (2.0 * need.count_noise)) ** 2)
        vote = max(1, math.floor(deviation / (2.0 * need.count_noise)))
        # A vote that had to be rounded up to 1 adds more to the sensitivity than was allowed for.
        deviation = max(deviation, z * math.hypot(bare.bound, vote))
    largest = max(_largest(need, bare, deviation), need.clients * vote + TAIL * deviation)
    if largest > most or deviation > LARGEST_DEVIATION:
        return None
    return dataclasses.replace(bare, vote=vote, variance=deviation * deviation)


def _largest(need: Need, lattice: Lattice, deviation: float) -> float:
    """What a coordinate of the sum may reach, if all vectors point the same way."""
    together = need.clients * lattice.norm
    other = need.clients / 4.0 + deviation**2
    if need.rotated:
        return TAIL * math.sqrt(together**2 / lattice.coordinates + other)
    return together + TAIL * math.sqrt(other)
