"""Epsilon of a sequence of events: PLD where all are Gaussian, RDP where one isn't.

Guarantees: both figures are upper bounds on the true epsilon of the composed events at the
given delta under add-or-remove-one, up to floating point. PLD (Koskela et al. 2020; Doroshenko
et al. 2022, "Connect the dots") is computed by dp-accounting with pessimistic rounding;
full-rate Gaussians are collapsed first and, when alone, solved in closed form (Balle and Wang
2018, Theorem 8). The figure is rounded up, by one part in 10^6 in closed form and by five in
10^5 where convolutions round off, and deltas below 10^-10 are refused. RDP is the cross-check.

As soon as one event adds integer noise, RDP makes the figure, from `tacit.privacy.discrete.renyi`
with the amplification proved there, and the cross-check is RDP with the general theorem. The
figure is then looser than PLD's would be, by a fifth for few rounds and much sampling.

It doesn't guarantee anything when event parameters were chosen in view of earlier releases:
PLD composition needs a plan that was fixed beforehand (`tacit.privacy.plan`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import dp_accounting
import numpy as np
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.rdp import RdpAccountant

from tacit.privacy import validate
from tacit.privacy.discrete import renyi
from tacit.privacy.errors import AccountingError, ConfigError
from tacit.privacy.events import Event, SampledGaussian, collapse

Method = Literal["pld", "rdp"]
_ROUND_UP = 1.0 + 1e-6
# Covers the round-off of the convolutions, measured at up to 2e-5 at MINIMUM_DELTA.
_ROUND_UP_PLD = 1.0 + 5e-5
MINIMUM_DELTA = 1e-10
_REBUILD = 64
# Steps of an octave in which epsilon is searched for: a relative 10^-5.
_GRID = 2**16
_GREATEST = 12 * _GRID
_STEPS_PER_DECADE = 16
# Integer orders only: the fractional series of dp-accounting fails to converge at large q.
_ORDERS = [*range(2, 65), 72, 80, 96, 128, 192, 256, 512, 1024]


@dataclass(frozen=True, slots=True)
class Epsilon:
    """An epsilon with what it was computed from, so that it can be recomputed.

    Attributes:
        value: the figure.
        delta: the delta it holds at.
        cross_check: RDP's bound for the same events, normally a little larger.
        accountant: name and version of the library behind both.
        method: what made the figure, "pld" or "rdp".
    """

    value: float
    delta: float
    cross_check: float
    accountant: str
    method: Method


def version() -> str:
    """Name and version of the accounting library, stamped beside every epsilon."""
    from importlib.metadata import version as installed

    return f"dp-accounting {installed('dp-accounting')}"


def _interval(event: SampledGaussian) -> float:
    """Discretisation of the privacy loss: sound for any value, tight for a fine one.

    One run's privacy loss is of the order q/z. A grid of a fortieth of that costs under 0.2%
    of epsilon (a test holds it to the finest grid); below q/z = 4e-4 the grid stops at 1e-5
    and the figure gets looser, never smaller. Little noise means large losses, for which a
    coarser grid is fine enough.
    """
    z = event.noise_multiplier
    return min(max(3e-3, 1e-3 / z**2), max(1e-5, event.sampling_rate / z / 40))


@functools.lru_cache(maxsize=64)
def _single(event: SampledGaussian, interval: float) -> pld.PrivacyLossDistribution:
    return pld.from_gaussian_mechanism(
        standard_deviation=event.noise_multiplier,
        sensitivity=1.0,
        value_discretization_interval=interval,
        sampling_prob=event.sampling_rate,
        neighboring_relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
    )


@functools.lru_cache(maxsize=64)
def _several(event: SampledGaussian, interval: float, count: int) -> pld.PrivacyLossDistribution:
    """The PLD of a few runs: what a client's steps of one round add."""
    single = _single(event, interval)
    return single if count == 1 else single.self_compose(count)


@functools.lru_cache(maxsize=4096)
def _renyi(counts: tuple[tuple[Event, int], ...], general: bool, delta: float) -> float:
    """Epsilon by Renyi divergences; remembered, as many runs of a ledger spend the same."""
    curve = renyi.general_curve if general else renyi.curve
    total = sum((n * curve(event) for event, n in counts), np.zeros(renyi.ORDERS.shape))
    return renyi.to_epsilon(total, delta) * _ROUND_UP


def _least(composed: pld.PrivacyLossDistribution, delta: float, near: dict[float, int]) -> float:
    """The least epsilon on a geometric grid of `_GRID` steps an octave that ``delta`` allows.

    The library's own inverse walks the losses in Python; asking for delta is a dot product. On a
    fixed grid the figure doesn't depend on where the search began.

    Args:
        composed: what was spent.
        delta: the target.
        near: where the last search for this delta ended; updated.
    """

    def over(k: int) -> bool:
        found = float(composed.get_delta_for_epsilon(2.0 ** (k / _GRID)))
        if math.isnan(found):
            raise AccountingError(f"delta={delta} is too small for the accountant")
        return found > delta

    if not float(composed.get_delta_for_epsilon(0.0)) > delta:
        return 0.0
    low = high = near.get(delta, 0)
    step = 64
    while over(high):
        if high == _GREATEST:
            return math.inf
        low, high, step = high, min(high + step, _GREATEST), 4 * step
    if low == high:
        low -= 1
        while low > -_GREATEST and not over(low):
            low, high, step = max(low - step, -_GREATEST), low, 4 * step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if over(middle) else (low, middle)
    near[delta] = high
    return float(2.0 ** (high / _GRID))


class Accountant:
    """Running epsilon of one claim at one delta.

    Keeps the composed privacy loss distribution, so that asking after every round costs
    one convolution and not a replay; with RDP, one multiplication of a curve.

    Args:
        delta: in (0, 1).

    Example:
        >>> spent = Accountant(delta=1e-5)
        >>> spent.compose(SampledGaussian(1.0, 0.01, 1000))
        >>> 1.7 < spent.epsilon() < 1.9
        True
    """

    def __init__(self, delta: float) -> None:
        validate.open_unit("delta", delta)
        if delta < MINIMUM_DELTA:
            raise ConfigError(f"delta={delta:g} must be at least {MINIMUM_DELTA:g}")
        self.delta = delta
        self._counts: dict[Event, int] = {}
        # Latest composition of each event, shared between copies: (count, its distribution).
        self._composed: dict[
            tuple[SampledGaussian, float], tuple[int, pld.PrivacyLossDistribution]
        ] = {}
        self._memo: dict[tuple[tuple[Event, int], ...], float] = {}
        # Where the search of `substituted` stopped, in steps below its delta: what didn't fit
        # then doesn't fit with more composed.
        self._exponent: dict[float, int] = {}
        self._near: dict[float, int] = {}

    def copy(self) -> Accountant:
        """An accountant with the same past and its own future."""
        other = Accountant(self.delta)
        other._counts = dict(self._counts)
        other._composed = self._composed
        other._memo = self._memo
        other._exponent = self._exponent
        other._near = self._near
        return other

    @property
    def method(self) -> Method:
        """What makes the figure: "pld" until an event is composed that isn't Gaussian."""
        return "rdp" if self._gaussians() is None else "pld"

    def compose(self, event: Event) -> None:
        """Adds an event (all its ``count`` runs) to what was spent."""
        key = event.once()
        self._counts[key] = self._counts.get(key, 0) + event.count

    def events(self) -> list[Event]:
        """What was composed."""
        return [event.times(count) for event, count in self._counts.items()]

    def epsilon(self) -> float:
        """The figure for everything composed so far; 0.0 before the first event."""
        if not self._counts:
            return 0.0
        key = tuple(sorted(self._counts.items(), key=repr))
        if key not in self._memo:
            self._memo.clear()
            self._memo[key] = self._figure()(self.delta)
        return self._memo[key]

    def substituted(self, delta: float) -> float:
        """Epsilon at ``delta`` for *substituting* one unit's data, by group privacy.

        Substituting is removing and adding: if (e, d) holds for each, (2e, (1 + exp(e)) d)
        holds for both (Vadhan 2017, "The Complexity of Differential Privacy", Lemma 2.2).
        The largest d on a grid that fits into ``delta`` is taken; infinity if none does.
        """
        first = self._exponent.get(delta, 1)
        value, steps = self._substituted(self._figure(), delta, first)
        self._exponent = {**self._exponent, delta: steps}
        return value

    def substituted_cross_check(self, delta: float) -> float:
        """The cross-check of `substituted`."""
        return self._substituted(self._check(), delta, 1)[0]

    def _substituted(
        self, epsilon_at: Callable[[float], float], delta: float, steps: int
    ) -> tuple[float, int]:
        """The figure, and how many steps below ``delta`` it was found."""
        if not self._counts:
            return 0.0, 1
        while (smaller := delta * 10.0 ** (-steps / _STEPS_PER_DECADE)) >= MINIMUM_DELTA:
            one = epsilon_at(smaller)
            if one < 700 and (1.0 + math.exp(one)) * smaller <= delta:
                return 2.0 * one, steps
            steps += 1
        return math.inf, steps

    def _gaussians(self) -> dict[SampledGaussian, int] | None:
        """All events and their counts; None if one isn't Gaussian."""
        found = {e: n for e, n in self._counts.items() if isinstance(e, SampledGaussian)}
        return found if len(found) == len(self._counts) else None

    def _figure(self) -> Callable[[float], float]:
        """The figure as a function of delta."""
        gaussians = self._gaussians()
        if gaussians is None:
            return self._renyi(False)
        return functools.partial(self._pld, gaussians)

    def _check(self) -> Callable[[float], float]:
        """The cross-check as a function of delta."""
        gaussians = self._gaussians()
        if gaussians is None:
            return self._renyi(True)
        rdp = RdpAccountant(_ORDERS, dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
        for event, count in gaussians.items():
            rdp.compose(renyi.library_event(event), count)
        return lambda delta: float(rdp.get_epsilon(delta)) * _ROUND_UP

    def _renyi(self, general: bool) -> Callable[[float], float]:
        return functools.partial(_renyi, tuple(self._counts.items()), general)

    def _pld(self, gaussians: dict[SampledGaussian, int], delta: float) -> float:
        sampled = {e: n for e, n in gaussians.items() if e.sampling_rate < 1.0}
        full = [(e.noise_multiplier, n) for e, n in gaussians.items() if e.sampling_rate == 1.0]
        total = collapse(z / math.sqrt(n) for z, n in full) if full else math.inf
        if not sampled:
            return float(dp_accounting.get_epsilon_gaussian(total, delta)) * _ROUND_UP
        interval = min(_interval(e) for e in sampled)
        parts = [self._self_composed(e, n, interval) for e, n in sampled.items()]
        if full:
            parts.append(_single(SampledGaussian(total), interval))
        composed = functools.reduce(lambda a, b: a.compose(b), parts)
        return _least(composed, delta, self._near) * _ROUND_UP_PLD

    def _self_composed(
        self, event: SampledGaussian, count: int, interval: float
    ) -> pld.PrivacyLossDistribution:
        """The PLD of ``count`` runs, one convolution away from the last one asked for."""
        have, made = self._composed.get((event, interval), (0, None))
        if made is not None and have == count:
            return made
        # Each convolution truncates 1e-15 of the mass (pessimistically), so a chain of them
        # is started anew now and then.
        if made is not None and have < count and have // _REBUILD == count // _REBUILD:
            made = made.compose(_several(event, interval, count - have))
        else:
            made = _single(event, interval).self_compose(count)
        self._composed[event, interval] = (count, made)
        return made

    def cross_check(self) -> float:
        """RDP's bound for the same events (Mironov 2017; Canonne et al. 2020 conversion)."""
        return self._check()(self.delta) if self._counts else 0.0

    def result(self) -> Epsilon:
        """Figure and cross-check with their provenance."""
        return Epsilon(self.epsilon(), self.delta, self.cross_check(), version(), self.method)


def epsilon(events: Iterable[Event], delta: float) -> Epsilon:
    """Epsilon of ``events`` composed, from nothing but their parameters.

    Example:
        >>> e = epsilon([SampledGaussian(1.2, 0.2, 60)], delta=300**-1.1)
        >>> 5.3 < e.value < 5.4 and e.cross_check > e.value
        True
    """
    accountant = Accountant(delta)
    for event in events:
        accountant.compose(event)
    return accountant.result()
