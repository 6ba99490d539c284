"""Gates: what a version has to show, decided on noised counts with their confidence interval.

A gate says **pass**, **fail** or **undecided**; undecided never passes, so that no gate decides on
noise. Intervals are those of `tacit.privacy.intervals`.

Guarantees: all intervals of one `Decision` hold together with at least the gate's confidence
(Bonferroni). A gate reads the number of rounds that it fixed beforehand, no more and no fewer; the
j-th rollout of the same pair is decided at (1 - confidence)/(j(j + 1)), which adds up to no more
than 1 - confidence however often somebody tries again.

Server and verifier decide by this module alone; it needs neither torch nor a database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError
from tacit.privacy.intervals import Counts, Interval, interval, noise_interval

METRICS = ("accuracy", "loss")
PASS, FAIL, UNDECIDED = "pass", "fail", "undecided"


@dataclass(frozen=True, slots=True)
class Noise:
    """How far the released counts are from what was counted.

    Attributes:
        champion: deviation of each of the champion's counts in one round.
        challenger: of the challenger's.
        loss_cap: what a loss of 1 in the counts stands for.
    """

    champion: float
    challenger: float
    loss_cap: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What a version has to show before an alias of its model may name it.

    Attributes:
        model: whose versions.
        alias: that is guarded.
        metric: "accuracy", where more is better, or "loss", where less is.
        at_least: floor of the accuracy; None for none.
        at_most: ceiling of the loss; None for none.
        margin: by how much it may be worse than the version that the alias names, >= 0; None
            doesn't compare.
        confidence: with which all intervals of a decision hold together.
        windows: evaluations of each version that a decision reads, at least 2.
        fallback_rounds: evaluations in a row, each clearly beyond the floor or ceiling, after
            which the alias falls back.
    """

    model: str
    alias: str
    metric: str = "accuracy"
    at_least: float | None = None
    at_most: float | None = None
    margin: float | None = None
    confidence: float = 0.95
    windows: int = 5
    fallback_rounds: int = 3

    def __post_init__(self) -> None:
        validate.one_of("metric", self.metric, METRICS)
        if all(x is None for x in (self.at_least, self.at_most, self.margin)):
            raise ConfigError("a gate without at_least, at_most or margin lets everything pass")
        if self.at_most is not None and self.metric == "accuracy":
            raise ConfigError(f"at_most={self.at_most:g} is for metric=loss", "use at_least")
        if self.at_least is not None and self.metric == "loss":
            raise ConfigError(f"at_least={self.at_least:g} is for metric=accuracy", "use at_most")
        if self.at_least is not None:
            validate.open_unit("at_least", self.at_least)
        if self.at_most is not None:
            validate.positive("at_most", self.at_most)
        if self.margin is not None:
            validate.nonnegative("margin", self.margin)
        validate.open_unit("confidence", self.confidence)
        if self.confidence < 0.5:
            raise ConfigError(f"confidence={self.confidence:g} must be at least 0.5")
        validate.at_least("windows", self.windows, 2)
        validate.at_least("fallback_rounds", self.fallback_rounds, 1)

    @property
    def bound(self) -> float | None:
        """The floor or the ceiling."""
        return self.at_least if self.metric == "accuracy" else self.at_most

    def to_json(self) -> dict[str, Any]:
        """As a GATE leaf has it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Gate:
        """Reads it back.

        Raises:
            ConfigError: it isn't one.
        """
        known = {field.name: field for field in fields(cls)}
        if not isinstance(value, Mapping) or set(value) != set(known):
            raise ConfigError(f"gate={value!r} has other fields than {', '.join(known)}")
        kinds: dict[str, tuple[type, ...]] = {
            **dict.fromkeys(("model", "alias", "metric"), (str,)),
            **dict.fromkeys(("windows", "fallback_rounds"), (int,)),
            "confidence": (int, float),
        }
        for name, found in value.items():
            allowed = kinds.get(name, (int, float, type(None)))
            if isinstance(found, bool) or not isinstance(found, allowed):
                raise ConfigError(f"{name}={found!r} of a gate is of the wrong type")
        return cls(**value)

    def in_words(self) -> str:
        """The conditions, for people."""
        said = []
        if self.at_least is not None:
            said.append(f"{self.metric} >= {self.at_least:g}")
        if self.at_most is not None:
            said.append(f"{self.metric} <= {self.at_most:g}")
        if self.margin is not None:
            said.append(f"no worse than {self.alias} by {self.margin:g}")
        terms = f"{self.windows} evaluations at {self.confidence:.4g} confidence"
        return f"{' and '.join(said)}, after {terms}"


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a gate.

    Attributes:
        name: "at_least", "at_most" or "margin".
        threshold: of the gate.
        interval: of what is compared with it.
        verdict: "pass", "fail" or "undecided".
    """

    name: str
    threshold: float
    interval: Interval
    verdict: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What a gate says.

    Attributes:
        verdict: "pass" if every condition does, "fail" if any does, else "undecided".
        conditions: one by one.
        challenger: interval of the version that asks.
        champion: of the version it is compared with; None without a margin.
        confidence: of each interval.
        why: what is missing, if anything is.
    """

    verdict: str
    conditions: tuple[Condition, ...]
    challenger: Interval
    champion: Interval | None
    confidence: float
    why: str = ""

    @property
    def interval(self) -> Interval:
        """Of the version that asks."""
        return self.challenger

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def decide(
    gate: Gate,
    champion: Sequence[Counts],
    challenger: Sequence[Counts],
    noise: Noise,
    look: int = 1,
) -> Decision:
    """Whether a version may pass.

    Args:
        gate: that guards the alias.
        champion: counts of the version that the alias names, in order; unused without a margin.
        challenger: counts of the version that asks, in order. Of both the gate reads the first
            ``windows``.
        noise: of their counts.
        look: how often this pair was rolled out by then, this time included.
    """
    validate.at_least("look", look, 1)
    alpha = (1.0 - gate.confidence) / (look * (look + 1))
    sides = 1 if gate.margin is None else 2
    confidence = 1.0 - alpha / sides
    scale = noise.loss_cap if gate.metric == "loss" else 1.0
    given = {"challenger": challenger} | ({"champion": champion} if sides == 2 else {})
    found = {
        name: interval(counts[: gate.windows], gate.metric, getattr(noise, name), confidence).times(
            scale
        )
        for name, counts in given.items()
    }
    conditions = tuple(_conditions(gate, found["challenger"], found.get("champion")))
    verdicts = {condition.verdict for condition in conditions}
    verdict = FAIL if FAIL in verdicts else PASS if verdicts == {PASS} else UNDECIDED
    few = [
        f"{len(c)} of {gate.windows} of the {name}"
        for name, c in given.items()
        if len(c) < gate.windows
    ]
    why = f"evaluations are missing: {', '.join(few)}" if few else ""
    return Decision(
        UNDECIDED if few else verdict,
        conditions,
        found["challenger"],
        found.get("champion"),
        confidence,
        why,
    )


def breached(gate: Gate, counts: Counts, deviation: float, loss_cap: float) -> bool:
    """Whether one evaluation is clearly beyond a gate's floor or ceiling.

    By the noise alone: it is about the clients who were drawn. That a cohort may be unlucky is
    what ``fallback_rounds`` in a row are for. Where every cohort is exactly at the bound, noise
    does it with a chance of at most ((1 - confidence)/2)^fallback_rounds at each round.

    Args:
        gate: with a floor or a ceiling; without one nothing is beyond it.
        counts: of the version that the alias names.
        deviation: of each of them.
        loss_cap: what a loss of 1 in the counts stands for.
    """
    if gate.bound is None:
        return False
    found = noise_interval([counts], gate.metric, deviation, gate.confidence)
    if found.low is None or found.high is None:
        return False
    if gate.metric == "accuracy":
        return found.high < gate.bound
    return found.low * loss_cap > gate.bound


def _conditions(gate: Gate, challenger: Interval, champion: Interval | None) -> list[Condition]:
    found = []
    more = gate.metric == "accuracy"
    if gate.bound is not None:
        name = "at_least" if more else "at_most"
        found.append(_condition(name, gate.bound, challenger, gate.bound, more))
    if gate.margin is not None:
        assert champion is not None
        apart = challenger.minus(champion)
        limit = -gate.margin if more else gate.margin
        found.append(_condition("margin", gate.margin, apart, limit, more))
    return found


def _condition(name: str, threshold: float, found: Interval, limit: float, more: bool) -> Condition:
    """``limit`` is where ``found`` has to be above, if ``more``, or below."""
    verdict = UNDECIDED
    if found.low is not None and found.high is not None:
        worst, best = (found.low, found.high) if more else (-found.high, -found.low)
        least = limit if more else -limit
        if worst >= least:
            verdict = PASS
        elif best < least:
            verdict = FAIL
    return Condition(name, threshold, found, verdict)
