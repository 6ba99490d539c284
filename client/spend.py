"""What taking part costs one client, in plain Python: no scipy, no accounting library.

Guarantees: `epsilon` bounds the epsilon of composed events from above, by Renyi divergences at
integer orders, at those between by chords (or, where the formula holds there, by itself), and
by the conversion of Canonne, Kamath and Steinke 2020 (arXiv:2004.00010), Proposition 12.

- Gaussian: alpha / (2 z^2) (Mironov 2017). Skellam: Agarwal, Kairouz and Liu 2021, Theorem
  3.5. Discrete Gaussian: alpha l2^2 / (2 variance), and what a sum of several is off
  (Kairouz, Liu and Steinke 2021, Theorem 1, as `closeness`).
- Poisson-sampled, integer orders: Mironov, Talwar and Zhang 2019 (arXiv:1908.10530), section
  3.3: (alpha-1) D = log sum_l C(alpha, l) (1-q)^(alpha-l) q^l exp((l-1) D_l). That it holds
  for integer noise too, and why chords are sound, is proved in `tacit.privacy.discrete.renyi`,
  to which tests hold this module, as they hold it to `tacit.privacy.accountant`.

`cost` picks which of a plan's claims a client counts: against the coordinator with the clients
that may collude with it, who all know that this client takes part. So the draw of a cohort
amplifies nothing; a client's own draw of records does, as nobody else knows that.

It doesn't guarantee tightness: of Gaussians alone an exact accountant's figure is lower, by a
tenth to a third.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping

from tacit.privacy import validate
from tacit.privacy.claims import Claim
from tacit.privacy.events import Event, SampledDiscreteGaussian, SampledGaussian, SampledSkellam
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.units import Unit

PURPOSES = ("train", "evaluate")

_COARSE = (72, 80, 88, 96, 112, 128, 160, 192, 224, 256, 320, 384, 512, 768, 1024)
_WHOLE = (*range(2, 65), *_COARSE)
_BETWEEN = tuple(k / 10 for k in range(11, 100) if k % 10)
_ORDERS = (*_WHOLE, *_BETWEEN)

Curve = tuple[float, ...]


def cost(plan: PrivacyPlan, purpose: str, unit: Unit) -> Event | None:
    """What one participation spends of a unit of this client, or None: nothing is claimed.

    Args:
        plan: of the run.
        purpose: "train" or "evaluate".
        unit: "client", all of this client's data, or "record", one example of it.

    Raises:
        ConfigError: there is no such purpose.

    With ``aggregation=shortcut``, where whoever runs the simulation sees each vector, only
    the vector's own noise counts. Noise from a simulation's seed counts as none.
    """
    validate.one_of("purpose", purpose, PURPOSES)
    if plan.noise_source != "os-csprng":
        return None
    made = plan.training() if purpose == "train" else plan.evaluating()
    rows = {c.adversary: c for c in made if c.unit == unit and _counts(c)}
    order = ("local",) if plan.aggregation == "shortcut" else ("collusion", "coordinator")
    for adversary in order:
        if adversary in rows:
            return rows[adversary].event
    return None


def _counts(claim: Claim) -> bool:
    return claim.amplified == (claim.unit == "record")


def epsilon(events: Mapping[Event, int], delta: float) -> float:
    """The epsilon at ``delta`` of events, each composed so many times; 0 for none.

    Raises:
        ConfigError: delta isn't in (0, 1).

    Example:
        >>> 5.3 < epsilon({SampledGaussian(1.2, 0.2): 60}, 300**-1.1) < 6.5
        True
    """
    validate.open_unit("delta", delta)
    if not events:
        return 0.0
    parts = [(curve(event.once()), event.count * times) for event, times in events.items()]
    best = math.inf
    for i, order in enumerate(_ORDERS):
        divergence = math.fsum(times * made[i] for made, times in parts)
        spent = divergence + math.log1p(-1.0 / order) - math.log(delta * order) / (order - 1.0)
        best = min(best, spent)
    # NaN would compare as smaller than nothing, and so as allowed.
    return math.inf if math.isnan(best) else max(0.0, best)


@functools.lru_cache(maxsize=64)
def curve(event: Event) -> Curve:
    """Renyi divergence of one run at the orders of this module; infinity where unbounded."""
    if event.sampling_rate == 1.0 and not isinstance(event, SampledSkellam):
        return tuple(_whole(event, order) / (order - 1.0) for order in _ORDERS)
    known = {order: _whole(event, order) for order in _WHOLE}
    known[1] = 0.0
    between = []
    for order in _BETWEEN:
        below = math.floor(order)
        part = order - below
        between.append((1.0 - part) * known[below] + part * known[below + 1])
    made = [known[order] for order in _WHOLE] + between
    return tuple(value / (order - 1.0) for value, order in zip(made, _ORDERS, strict=True))


def _whole(event: Event, order: float) -> float:
    """(order - 1) times the divergence, at integer orders where sampled or Skellam."""
    kappa = event.closeness if isinstance(event, SampledDiscreteGaussian) else 0.0
    slack = kappa * (2.0 * order - 1.0)
    full = _full_rate(event, order)
    if event.sampling_rate < 1.0:
        full = min(full, _sampled(event, int(order)))
    return full + slack


@functools.lru_cache(maxsize=4096)
def _full_rate(event: Event, order: float) -> float:
    """(order - 1) times the divergence with ideal noise and without sampling."""
    if isinstance(event, SampledGaussian):
        return (0.5 / event.noise_multiplier / event.noise_multiplier) * order * (order - 1.0)
    # Divided before squared, so that neither overflows or vanishes without need.
    ratio = event.l2 / math.sqrt(event.variance)
    half = 0.5 * ratio * ratio
    divergence = half * order
    if isinstance(event, SampledSkellam):
        ones = event.l1 / event.variance
        small = 0.5 * (half * (2.0 * order - 1.0) + 3.0 * ones) / event.variance
        divergence += min(small, 1.5 * ones)
    return divergence * (order - 1.0)


def _sampled(event: Event, order: int) -> float:
    """The same with sampling: log(1 + sum_l weight_l (exp(moment_l) - 1)), l from 2."""
    rate = event.sampling_rate
    hit, miss = math.log(rate), math.log1p(-rate)
    terms = []
    for taken in range(2, order + 1):
        moment = _full_rate(event, taken)
        if moment == math.inf:
            return math.inf
        if moment > 0.0:
            weight = _log_binomial(order, taken) + taken * hit + (order - taken) * miss
            # As the weights add up to 1, small divergences lose no digits so.
            terms.append(weight + moment + math.log(-math.expm1(-moment)))
    total = _log_sum(terms)
    return total + math.log1p(math.exp(-total)) if total > 0 else math.log1p(math.exp(total))


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1.0) - math.lgamma(k + 1.0) - math.lgamma(n - k + 1.0)


def _log_sum(terms: Iterable[float]) -> float:
    found = list(terms)
    top = max(found, default=-math.inf)
    if top == -math.inf:
        return top
    return top + math.log(math.fsum(math.exp(term - top) for term in found))
