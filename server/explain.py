"""Which features a version rests on: asked of clients' data through charged evaluations alone.

The attribution of a feature is what taking it away costs: accuracy of the version minus accuracy
without the feature, and loss without it minus loss (Covert, Lundberg and Lee 2021, "Explaining by
removing": individual features are removed, by a default value that is 0 here, and the model's
behaviour is its loss over the data). It is measured by a rollout of mode ``explain``, whose arms
are the version and a copy of it for each feature: each client of a cohort evaluates one of them,
so a round costs one charge, however many features.

Guarantees: every number is computed from released noised counts; all intervals hold together
with `CONFIDENCE` (Bonferroni). A feature whose interval has 0 in it has shown nothing.

It isn't an attribution of single answers, and correlated features stand in for one another: that
one of two twins costs nothing doesn't say that both do.
"""

from __future__ import annotations

from typing import Any

from tacit.privacy.errors import ConfigError
from tacit.privacy.intervals import Counts, Interval, interval
from tacit.privacy.rollouts import Arm, RolloutPlan
from tacit.server import gates
from tacit.server.registry import ModelRegistry
from tacit.server.rollouts import of_version
from tacit.server.store import Store
from tacit.tasks.ablation import features
from tacit.tasks.task import Task

CONFIDENCE = 0.95


def plan(store: Store, reference: str, task: Task) -> RolloutPlan:
    """A rollout of a version and its copies without a feature each.

    Args:
        store: with the version.
        reference: NAME@NUMBER, NAME@ALIAS or NAME.
        task: that names the features.

    Raises:
        ConfigError: it names none.
        StorageError: there is no such version, or it is retired.
    """
    row = ModelRegistry(store.home, store).find(reference)
    named = features(task)
    whole = of_version(store, row["name"], row["number"], 1.0 / (1 + len(named)))
    copies = [
        Arm(whole.number, whole.release, whole.artifact, whole.share, {"feature": name})
        for name in named
    ]
    return RolloutPlan(row["name"], "explain", None, (whole, *copies))


def attributions(store: Store, run: str) -> dict[str, Any]:
    """What a rollout of mode ``explain`` has shown so far.

    Returns:
        model, number, run, leaf of its PLAN, rounds, confidence, ``whole`` with intervals of
        accuracy and loss, and ``features``, each with intervals of what its absence costs and
        the RELEASE leaves they come from, the costliest first.

    Raises:
        ConfigError: the run isn't one.
    """
    with store.database.reading() as c:
        found = gates.followed(c).runs.get(run)
    if found is None or found.rollout.mode != "explain":
        raise ConfigError(f"run={run} explains nothing", "tacit explain MODEL begins one")
    arms, leaves = found.rollout.arms, list(found.releases)
    sides = 2 * len(arms)
    counts: list[list[Counts]] = [[] for _ in arms]
    for released in found.releases.values():
        for place, (_, counted) in enumerate(released):
            counts[place].append(counted)

    def of(place: int, metric: str) -> Interval:
        deviation = found.deviation(arms[place].number)
        made = interval(counts[place], metric, deviation, 1.0 - (1.0 - CONFIDENCE) / sides)
        return made.times(found.loss_cap) if metric == "loss" else made

    whole = {metric: of(0, metric) for metric in ("accuracy", "loss")}
    rows = []
    for place, ablated in enumerate(arms[1:], 1):
        accuracy = whole["accuracy"].minus(of(place, "accuracy"))
        loss = of(place, "loss").minus(whole["loss"])
        rows.append(
            {
                "feature": ablated.ablation["feature"],
                "accuracy": accuracy.to_json(),
                "loss": loss.to_json(),
                "shown": _apart(accuracy) or _apart(loss),
                "leaves": leaves,
            }
        )
    rows.sort(key=lambda row: -(row["loss"]["estimate"] or 0.0))
    return {
        "model": found.rollout.model,
        "number": arms[0].number,
        "run": run,
        "leaf": found.index,
        "rounds": len(leaves),
        "confidence": CONFIDENCE,
        "whole": {metric: made.to_json() for metric, made in whole.items()},
        "features": rows,
    }


def _apart(found: Interval) -> bool:
    """Whether an interval is on one side of 0."""
    return found.bounded and not (found.low <= 0.0 <= found.high)  # type: ignore[operator]
