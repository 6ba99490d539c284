"""From a spec to its `PrivacyPlan`: everything that a guarantee depends on, worked out."""

from __future__ import annotations

import math
from dataclasses import replace

from scipy import stats

from tacit.configs.spec import RunSpec
from tacit.privacy.discrete.lattice import Lattice, Need, sized
from tacit.privacy.errors import ConfigError
from tacit.privacy.noise import SimulationSource, SystemSource
from tacit.privacy.plan import LAWS, PrivacyPlan
from tacit.privacy.secagg.cohort import Rules
from tacit.privacy.units import AdaptiveClip, ClientUnit, Evaluation, RecordUnit

# A drawn cohort is outside what was planned for with about this probability.
_UNLIKELY = 1e-9
_TOO_OFTEN = 0.02
# Unless it is said: a sum of three hides each behind two others, and can't spare anyone.
_USUAL = 4


def privacy_plan(spec: RunSpec, examples: int | None, dimension: int) -> PrivacyPlan:
    """The privacy plan of a run.

    Args:
        spec: of the run.
        examples: nominal records of a client, a public number from the task; needed for
            record-level DP unless ``privacy.record.denominator`` is set.
        dimension: trained parameters of the model.

    Raises:
        ConfigError: the settings don't make a plan.
    """
    evaluation = None
    if spec.evaluation.kind == "federated":
        e = spec.evaluation
        evaluation = Evaluation(e.every, e.cap, e.loss_cap, e.noise_multiplier)
    shares = spec.mechanism in LAWS
    plan = PrivacyPlan(
        population=spec.clients,
        sampling_rate=spec.sampling_rate,
        rounds=spec.rounds,
        client=_client_unit(spec),
        record=_record_unit(spec, examples),
        client_delta=spec.delta or _default_delta(spec.clients),
        record_delta=spec.delta or _default_delta(spec.clients * (examples or 1)),
        minimum_survivors=_minimum_survivors(spec),
        noise_source=SystemSource.name if spec.seed is None else SimulationSource.name,
        mechanism="central" if shares else spec.mechanism,
        aggregation="plain" if shares else spec.aggregation,
        weight_cap=spec.weighting.cap if spec.weighting.kind == "examples" else None,
        evaluation=evaluation,
    )
    return _shared(plan, spec, dimension) if shares else plan


def _shortcut(spec: RunSpec) -> bool:
    return spec.aggregation == "secure" and spec.secure.protocol == "shortcut"


def _shared(plan: PrivacyPlan, spec: RunSpec, dimension: int) -> PrivacyPlan:
    """The plan with its noise in shares."""
    largest = _largest_cohort(spec)
    if plan.minimum_survivors > largest:
        raise ConfigError(
            f"minimum_survivors={plan.minimum_survivors} is more than any cohort of "
            f"cohort={spec.cohort:g} has ({largest})",
            "raise cohort, or lower secure.collusion or minimum_survivors",
        )
    rules = Rules(plan.minimum_survivors, largest, spec.secure.dropout, spec.secure.collusion)
    _check_cohort(spec, rules)
    need, projection = _need(plan, spec, rules, dimension)
    return replace(
        plan,
        mechanism=spec.mechanism,
        aggregation="shortcut" if _shortcut(spec) else spec.aggregation,
        rules=rules,
        updates=sized(need, spec.secure.bits),
        counts=_counts(plan, rules),
        projection=projection,
        relation="zero-out",
    )


def _need(
    plan: PrivacyPlan, spec: RunSpec, rules: Rules, dimension: int
) -> tuple[Need, float | None]:
    """What the updates' lattice is sized for, and their bound if no client-level clip is one."""
    need = Need(
        dimension=dimension,
        rotated=True,
        clients=rules.largest,
        noise_multiplier=0.0,
        conditional=plan.client is not None,
    )
    if plan.client is not None:
        adaptive = plan.client.adaptive
        count_noise = adaptive.count_noise if adaptive else None
        multiplier = plan.client.noise_multiplier
        return replace(need, noise_multiplier=multiplier, count_noise=count_noise), None
    if plan.record is None or plan.record.steps != 1:
        return need, None
    # An update is -learning_rate * (clipped sum) / denominator.
    part = spec.secure.projection
    multiplier = math.sqrt(spec.cohort) * plan.record.noise_multiplier
    # From one side of the ball to the other is all that a record can move a vector.
    share = min(2.0, 1.0 / (part * plan.record.denominator))
    projection = part * spec.local.learning_rate * plan.record.clip
    return replace(need, noise_multiplier=multiplier, record_share=share), projection


def _counts(plan: PrivacyPlan, rules: Rules) -> Lattice | None:
    """The lattice of a federated evaluation's counts."""
    if plan.evaluation is None:
        return None
    need = Need(
        dimension=3,
        rotated=False,
        clients=rules.largest,
        noise_multiplier=plan.evaluation.noise_multiplier,
        conditional=False,
    )
    counts = sized(need, 32)
    if plan.client is not None:
        return counts
    return replace(counts, record_norm=counts.norm / plan.evaluation.cap)


def _client_unit(spec: RunSpec) -> ClientUnit | None:
    client = spec.privacy.client
    if client.kind == "none":
        return None
    adaptive = None
    if client.kind == "adaptive":
        # A twentieth of the cohort, as Andrew et al. 2021 recommend, but never so
        # little that the count would cost more than the updates.
        default = max(spec.cohort / 20, client.noise_multiplier)
        count_noise = default if client.count_noise is None else client.count_noise
        adaptive = AdaptiveClip(client.quantile, client.quantile_learning_rate, count_noise)
    return ClientUnit(client.clip, client.noise_multiplier, adaptive)


def _record_unit(spec: RunSpec, examples: int | None) -> RecordUnit | None:
    record = spec.privacy.record
    if record.kind == "none":
        return None
    denominator = record.denominator
    if denominator is None:
        if examples is None:
            raise ConfigError(
                "privacy.record.denominator=null needs the task's examples_per_client",
                "state it in the task, or set privacy.record.denominator",
            )
        denominator = max(1.0, record.sampling_rate * examples)
    return RecordUnit(
        record.clip, record.noise_multiplier, record.sampling_rate, local_steps(spec), denominator
    )


def _largest_cohort(spec: RunSpec) -> int:
    """A cohort larger than this isn't drawn but for `_UNLIKELY`."""
    return int(stats.binom.isf(_UNLIKELY, spec.clients, spec.sampling_rate))


def _minimum_survivors(spec: RunSpec) -> int:
    if spec.minimum_survivors is not None:
        return spec.minimum_survivors
    everybody = spec.cohort == spec.clients
    if spec.mechanism not in LAWS:
        return spec.clients if everybody else 0
    if everybody:
        return max(_USUAL, spec.clients - math.floor(spec.clients * spec.secure.dropout))
    return max(_USUAL, 3 * spec.secure.collusion + 1, math.ceil(spec.cohort / 3))


def _check_cohort(spec: RunSpec, rules: Rules) -> None:
    """Refuses settings under which many a drawn cohort would be too small."""
    short = float(stats.binom.cdf(rules.minimum - 1, spec.clients, spec.sampling_rate))
    if short > _TOO_OFTEN:
        raise ConfigError(
            f"cohort={spec.cohort:g} of clients={spec.clients} is below "
            f"minimum_survivors={rules.minimum} in {short:.0%} of the rounds",
            "raise cohort, lower minimum_survivors, or use mechanism=central aggregation=plain",
        )


def local_steps(spec: RunSpec) -> int:
    """Optimizer steps of one participation; they don't depend on a client's data."""
    if spec.local.steps is not None:
        return spec.local.steps
    # Less a rounding error, so that 9 epochs at a rate of 0.009 are 1000 steps.
    return math.ceil((spec.local.epochs or 1) / spec.privacy.record.sampling_rate - 1e-9)


def _default_delta(units: int) -> float:
    return 0.5 if units < 2 else math.pow(units, -1.1)
