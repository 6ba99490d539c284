"""Rollouts and gates of a model as plain data: counts, metrics with intervals, decisions.

Every number comes with the RELEASE leaf that it comes from; nothing here is more than those leaves
say. Intervals are at 95% confidence and for whoever looks; a gate's decision has its own.
"""

from __future__ import annotations

from typing import Any

from tacit.privacy.errors import ConfigError
from tacit.privacy.gates import PASS, Gate
from tacit.privacy.intervals import Counts, interval, metrics
from tacit.privacy.log.rollouts import Rollouts, RolloutTrail
from tacit.privacy.rollouts import Arm
from tacit.server import gates
from tacit.server.store import Store

CONFIDENCE = 0.95


def rollouts(store: Store, model: str) -> list[dict[str, Any]]:
    """The rollouts of a model, oldest first."""
    with store.database.reading() as c:
        found = gates.followed(c)
    status = {row["id"]: row["status"] for row in store.runs()}
    return [
        _rollout(name, run, status.get(name, ""))
        for name, run in found.runs.items()
        if run.rollout.model == model
    ]


def rollout(store: Store, run: str) -> dict[str, Any]:
    """One rollout.

    Raises:
        ConfigError: the run isn't one.
    """
    with store.database.reading() as c:
        found = gates.followed(c).runs.get(run)
    if found is None:
        raise ConfigError(f"run={run} trains; it isn't a rollout")
    return _rollout(run, found, store.run(run)["status"])


def guards(store: Store, model: str) -> list[dict[str, Any]]:
    """The gates of a model, and what each says of the versions that were rolled out."""
    with store.database.reading() as c:
        found = gates.followed(c)
        aliases = [alias for name, alias in found.gates if name == model]
        named = {alias: gates.named(c, model, alias) for alias in aliases}
    made = []
    for alias in aliases:
        guarding = found.gate(model, alias)
        if guarding is not None:
            made.append(_guard(found, alias, *guarding, named[alias]))
    return made


def _guard(
    found: Rollouts, alias: str, leaf: int, gate: Gate, champion: int | None
) -> dict[str, Any]:
    numbers = sorted(
        {
            arm.number
            for run in found.runs.values()
            if run.rollout.model == gate.model
            for arm in run.rollout.arms
            if arm.ablation is None and arm.number != champion
        }
    )
    decisions = [_decision(found, gate, alias, number, champion) for number in numbers]
    return {
        "leaf": leaf,
        "alias": alias,
        "gate": gate.to_json(),
        "in_words": gate.in_words(),
        "champion": champion,
        "decisions": [decision for decision in decisions if decision is not None],
    }


def _decision(
    found: Rollouts, gate: Gate, alias: str, number: int, champion: int | None
) -> dict[str, Any] | None:
    evidence = found.newest(gate.model, alias, number, champion)
    if not evidence:
        return None
    try:
        made = found.decide(gate.model, alias, number, champion, evidence)
    except ConfigError as error:
        return {"number": number, "evidence": evidence, "verdict": "undecided", "why": str(error)}
    said = made.to_json()
    return {"number": number, "evidence": evidence, "passes": made.verdict == PASS, **said}


def _rollout(name: str, run: RolloutTrail, status: str) -> dict[str, Any]:
    arms = [_arm(run, place, arm) for place, arm in enumerate(run.rollout.arms)]
    return {
        "run": name,
        "leaf": run.index,
        "model": run.rollout.model,
        "mode": run.rollout.mode,
        "alias": run.rollout.alias,
        "status": status,
        "rounds": len(run.releases),
        "planned": run.plan.rounds,
        "arms": arms,
    }


def _arm(run: RolloutTrail, place: int, arm: Arm) -> dict[str, Any]:
    assert run.plan.evaluation is not None
    deviation = run.deviation(arm.number)
    found = list[tuple[int, Counts]]()
    for number, (leaf, released) in enumerate(run.releases.items(), 1):
        due = run.rollout.due(number)
        if arm in due:
            found.append((leaf, released[due.index(arm)][1]))
    counts = [c for _, c in found]
    intervals = {
        "accuracy": interval(counts, "accuracy", deviation, CONFIDENCE),
        "loss": interval(counts, "loss", deviation, CONFIDENCE).times(run.loss_cap),
    }
    return {
        **arm.to_json(),
        "place": place,
        "deviation": deviation,
        "windows": [
            {"leaf": leaf, "counts": c.to_json(), "metrics": metrics(c, run.plan.evaluation)}
            for leaf, c in found
        ],
        "confidence": CONFIDENCE,
        **{metric: made.to_json() for metric, made in intervals.items()},
    }
