"""Quality of a version out of noised counts, with the interval that it is in.

A federated evaluation releases three sums, each with noise of a known deviation: correct, examples
and loss, over the cap of records a client. Quality is their ratio.

Guarantees: an interval of `interval` covers, with at least the confidence asked for (as far as
windows are normal), the ratio of the sums' means, since it holds both

* the interval from the noise alone, whose deviation is known (`noise_interval`), and
* the one from the spread between windows, in which noise, the draw of cohorts and whatever else
  changed from round to round all show (`spread_interval`).

It doesn't guarantee that the clients drawn are those who will use the model, or that their data
won't change. It needs neither torch nor a database.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from tacit.privacy.errors import ConfigError, MessageError
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.units import Evaluation

# A cohort has more clients than this bound says with about this probability.
_UNLIKELY = 1e-9


@dataclass(frozen=True, slots=True)
class Counts:
    """What one arm of one round released: sums over its clients, noised.

    Attributes:
        correct: scores over the cap.
        examples: records over the cap.
        loss: clipped losses over the loss cap, over the cap.
    """

    correct: float
    examples: float
    loss: float

    @classmethod
    def from_json(cls, value: Any) -> Counts:
        """Counts of a RELEASE leaf.

        Raises:
            MessageError: they aren't three finite numbers.
        """
        if not isinstance(value, list) or len(value) != 3:
            raise MessageError(f"counts={value!r} aren't three numbers")
        for number in value:
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise MessageError(f"counts={value!r} aren't three numbers")
        if not all(math.isfinite(number) for number in value):
            raise MessageError(f"counts={value!r} aren't finite")
        return cls(*map(float, value))

    def to_json(self) -> list[float]:
        """As a RELEASE leaf has them."""
        return [self.correct, self.examples, self.loss]

    def part(self, metric: str) -> float:
        """The numerator of a metric."""
        return self.correct if metric == "accuracy" else self.loss


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval; None where nothing bounds it.

    Attributes:
        estimate: the ratio of the sums; None if the examples' sum isn't positive.
        low: lower bound.
        high: upper bound.
    """

    estimate: float | None
    low: float | None
    high: float | None

    @property
    def bounded(self) -> bool:
        """Whether it says anything."""
        return self.low is not None and self.high is not None

    def times(self, factor: float) -> Interval:
        """In another unit, by a factor greater than 0."""
        return Interval(*(None if x is None else x * factor for x in self.bounds()))

    def hull(self, other: Interval) -> Interval:
        """The smallest that holds both."""
        if None in (self.low, self.high, other.low, other.high):
            return Interval(self.estimate, None, None)
        return Interval(self.estimate, min(self.low, other.low), max(self.high, other.high))  # type: ignore[type-var]

    def minus(self, other: Interval) -> Interval:
        """Of the difference, wherever in both the two are."""
        estimate = None
        if self.estimate is not None and other.estimate is not None:
            estimate = self.estimate - other.estimate
        if None in (self.low, self.high, other.low, other.high):
            return Interval(estimate, None, None)
        return Interval(estimate, self.low - other.high, self.high - other.low)  # type: ignore[operator]

    def bounds(self) -> tuple[float | None, float | None, float | None]:
        """Estimate, low and high."""
        return self.estimate, self.low, self.high

    def to_json(self) -> dict[str, float | None]:
        """As plain data."""
        return asdict(self)


def deviation(plan: PrivacyPlan, share: float) -> float:
    """Deviation of each count of one arm in one round, or a little more.

    That is the noise of the sum; to it come, where the plan has them, what each client added to
    protect its records and what rounding to integers adds, at most 1/4 in variance, for as many
    clients as an arm has but for a probability of 10^-9.

    Args:
        plan: of the run.
        share: of the arm.

    Raises:
        ConfigError: the plan has no federated evaluation.
    """
    how = plan.evaluation
    if how is None:
        raise ConfigError("the plan has no federated evaluation")
    from scipy import stats

    rate = plan.sampling_rate * share
    most = float(stats.binom.isf(_UNLIKELY, plan.population, rate))
    own = 0.0
    if plan.record is not None and not plan.noised_by_shares():
        own = (plan.record.noise_multiplier * Evaluation.SENSITIVITY / how.cap) ** 2
    if plan.counts is None:
        variance = (how.noise_multiplier * Evaluation.SENSITIVITY) ** 2
    else:
        unit = Evaluation.SENSITIVITY / plan.counts.norm
        variance = (plan.counts.variance + most / 4.0) * unit**2
    return math.sqrt(variance + most * own)


def metrics(counts: Counts, how: Evaluation) -> dict[str, float]:
    """Accuracy and loss of noised counts, clamped to their ranges, for whoever looks at one round.

    ``accuracy_noise`` is the deviation that the noise of the sum alone gives the ratio (delta
    method). No gate reads these: it reads the counts.
    """
    std = how.noise_multiplier * Evaluation.SENSITIVITY
    examples = max(counts.examples, 1.0 / how.cap)
    accuracy = min(1.0, max(0.0, counts.correct / examples))
    loss = min(1.0, max(0.0, counts.loss / examples)) * how.loss_cap
    spread = std * math.sqrt(1.0 + accuracy**2) / examples
    return {"accuracy": accuracy, "loss": loss, "accuracy_noise": min(1.0, spread)}


def fieller(
    top: float, bottom: float, v_top: float, v_bottom: float, v_both: float, quantile: float
) -> Interval:
    """Fieller's interval for a ratio of means.

    All r with (top - r bottom)^2 <= quantile^2 Var(top - r bottom), where the variance is
    ``v_top - 2 r v_both + r^2 v_bottom``. Exact for normal sums, however noisy the denominator;
    where the denominator isn't clearly off zero the set is unbounded, and so is the answer
    (Fieller 1954, "Some problems in interval estimation", J. R. Statist. Soc. B 16(2)).

    Args:
        top: the numerator.
        bottom: the denominator; a ratio by what may be zero or below isn't bounded.
        v_top: variance of the numerator.
        v_bottom: variance of the denominator.
        v_both: their covariance.
        quantile: of the normal distribution, or of Student's where variances are estimated.
    """
    if not bottom > 0:
        return Interval(None, None, None)
    square = quantile**2
    a = bottom**2 - square * v_bottom
    b = top * bottom - square * v_both
    c = top**2 - square * v_top
    if not a > 0:
        return Interval(top / bottom, None, None)
    # Of two real roots; rounding alone can make it negative.
    root = math.sqrt(max(0.0, b * b - a * c))
    return Interval(top / bottom, (b - root) / a, (b + root) / a)


def noise_interval(
    windows: Sequence[Counts], metric: str, deviation: float, confidence: float
) -> Interval:
    """The interval from the noise alone: Fieller's, pooled over windows, with known variances."""
    top, bottom = _sums(windows, metric)
    variance = len(windows) * deviation**2
    quantile = NormalDist().inv_cdf(0.5 + confidence / 2)
    return fieller(top, bottom, variance, variance, 0.0, quantile)


def spread_interval(windows: Sequence[Counts], metric: str, confidence: float) -> Interval:
    """The interval from the spread between windows: Fieller's, with estimated covariances.

    Student's t with windows - 1 degrees of freedom; one window has no spread, and bounds nothing.
    """
    top, bottom = _sums(windows, metric)
    count = len(windows)
    if count < 2:
        return Interval(top / bottom if bottom > 0 else None, None, None)
    from scipy import special

    parts = [(w.part(metric) - top / count, w.examples - bottom / count) for w in windows]
    scale = count / (count - 1)
    v_top = scale * math.fsum(x * x for x, _ in parts)
    v_bottom = scale * math.fsum(y * y for _, y in parts)
    v_both = scale * math.fsum(x * y for x, y in parts)
    quantile = float(special.stdtrit(count - 1, 0.5 + confidence / 2))
    return fieller(top, bottom, v_top, v_bottom, v_both, quantile)


def interval(
    windows: Sequence[Counts], metric: str, deviation: float, confidence: float
) -> Interval:
    """The hull of `noise_interval` and `spread_interval`: no narrower than either.

    Args:
        windows: released counts of one version, a round each.
        metric: "accuracy" or "loss", the latter as a fraction of its cap.
        deviation: of each count in one window, from the noise.
        confidence: two-sided, in (0, 1).
    """
    if not windows:
        return Interval(None, None, None)
    noise = noise_interval(windows, metric, deviation, confidence)
    return noise.hull(spread_interval(windows, metric, confidence))


def _sums(windows: Sequence[Counts], metric: str) -> tuple[float, float]:
    return math.fsum(w.part(metric) for w in windows), math.fsum(w.examples for w in windows)
