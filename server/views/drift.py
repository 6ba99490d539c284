"""Quality over time as plain data: every federated evaluation of a model, with its interval.

Guarantees: a figure is what a RELEASE leaf says, beside that leaf; an interval is from the noise
alone at the gate's confidence (`tacit.privacy.intervals`), as fallbacks look at it, so that a
round "breached" here is one that counts there. Of training runs, whose releases have no counts,
it is the normal interval of the deviation that the release states.

Which clients were drawn differs from round to round, and no interval of one round has that in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import sqlalchemy as sa

from tacit.privacy import gates, intervals
from tacit.privacy.errors import ConfigError, MessageError
from tacit.privacy.gates import Gate
from tacit.privacy.intervals import Counts, Interval
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.plans import read
from tacit.privacy.rollouts import RolloutPlan
from tacit.server import tables as t
from tacit.server.store import Row, Store
from tacit.server.views.models import Sees, everything

CONFIDENCE = 0.95


def models(store: Store, sees: Sees = everything) -> list[Row]:
    """The models that were evaluated: how often, and the newest evaluation's leaf."""
    found: dict[str, Row] = {}
    for index, body, plan in _evaluations(store):
        name = plan["name"]
        if sees(name):
            row = found.setdefault(name, {"model": name, "evaluations": 0})
            row |= {"evaluations": row["evaluations"] + 1, "leaf": index, "at": body["at"]}
    return [found[name] for name in sorted(found)]


def model(store: Store, name: str, alias: str = "champion") -> Row:
    """One model's evaluations in series, against the gate of an alias.

    Args:
        store: of the ledger.
        name: of the model.
        alias: whose newest gate is shown.

    Returns:
        ``gate`` with its leaf, or None; ``series``: one of each training run, and one of each
        version in each rollout, with ``points``: leaf, at, round, number, estimate, low, high,
        and whether the gate's bound is clearly missed (``breached``).
    """
    gate = _gate(store, name, alias)
    series: dict[tuple[str, str], Row] = {}
    for index, body, plan in _evaluations(store, name):
        for label, point in _points(index, body, plan, gate):
            about = {"run": body["run"], "label": label, "kind": "training", "points": []}
            if plan.get("rollout"):
                about["kind"] = plan["rollout"]["mode"]
            series.setdefault((body["run"], label), about)["points"].append(point)
    shown = None if gate is None else {"leaf": gate[0], **gate[1].to_json(), "bound": gate[1].bound}
    if gate is not None:
        shown = {**(shown or {}), "in_words": gate[1].in_words()}
    metric = gate[1].metric if gate else "accuracy"
    return {"model": name, "metric": metric, "gate": shown, "series": list(series.values())}


def _evaluations(store: Store, name: str | None = None) -> list[tuple[int, Row, Row]]:
    """RELEASE leaves of evaluations, in order, each with its run's PLAN."""
    of = t.leaves.c
    query = sa.select(of.index, of.kind, of.run, of.body).where(of.kind.in_(("PLAN", "RELEASE")))
    if name is not None:
        query = query.where(of.run.in_(sa.select(t.runs.c.id).where(t.runs.c.name == name)))
    plans: dict[str, Row] = {}
    found: list[tuple[int, Row]] = []
    with store.database.reading() as c:
        for index, kind, run, text in c.execute(query.order_by(of.index)):
            body = json.loads(text)
            if kind == "PLAN":
                plans.setdefault(run, body)
            elif body["purpose"] == "evaluate":
                found.append((index, body))
    return [(i, body, plans[body["run"]]) for i, body in found if body["run"] in plans]


def _gate(store: Store, name: str, alias: str) -> tuple[int, Gate] | None:
    """The newest gate of an alias."""
    for leaf in reversed(store.leaves(kinds=("GATE",))):
        body = leaf["body"]
        if (body["model"], body["alias"]) == (name, alias):
            try:
                return leaf["index"], Gate.from_json(body["gate"])
            except ConfigError:
                return None
    return None


def _points(
    index: int, body: Row, plan: Row, gate: tuple[int, Gate] | None
) -> list[tuple[str, Row]]:
    asked = gate[1] if gate else None
    place = {"leaf": index, "at": body["at"], "round": body["round"]}
    if "arms" not in body:
        found, breached = _stated(body.get("metrics") or {}, asked)
        point = {**place, "number": None, **found.to_json(), "breached": breached}
        return [(f"training {body['run']}", point)] if found.estimate is not None else []
    made = []
    how = _plan(plan)
    for arm in body["arms"]:
        found, breached = _measured(arm, plan, how, asked)
        more = {"number": arm["number"], **found.to_json(), "breached": breached}
        label = f"version {arm['number']}"
        if arm.get("ablation") is not None:
            label += f" without {_words(arm['ablation'])}"
        made.append((label, {**place, **more}))
    return made


def _stated(metrics: Mapping[str, float], gate: Gate | None) -> tuple[Interval, bool]:
    """What a training run's evaluation says, and whether that misses the gate's floor."""
    metric = gate.metric if gate else "accuracy"
    value, noise = metrics.get(metric), metrics.get(f"{metric}_noise")
    if value is None or noise is None:
        return Interval(value, None, None), False
    quantile = NormalDist().inv_cdf(0.5 + (gate.confidence if gate else CONFIDENCE) / 2)
    low, high = max(0.0, value - quantile * noise), min(1.0, value + quantile * noise)
    missed = gate is not None and gate.bound is not None and high < gate.bound
    return Interval(value, low, high), missed


def _measured(
    arm: Row, plan: Row, how: PrivacyPlan | None, gate: Gate | None
) -> tuple[Interval, bool]:
    """The interval of an arm's counts in one round."""
    metric = gate.metric if gate else "accuracy"
    try:
        counts = Counts.from_json(arm["counts"])
        rollout = RolloutPlan.from_json(plan["rollout"])
        known = next((a for a in rollout.arms if a.number == arm["number"]), None)
        if how is None or how.evaluation is None or known is None:
            raise ConfigError("its plan says nothing of it")
        deviation = intervals.deviation(how, known.share)
    except (ConfigError, MessageError, KeyError):
        return Interval((arm.get("metrics") or {}).get(metric), None, None), False
    cap = how.evaluation.loss_cap
    confidence = gate.confidence if gate else CONFIDENCE
    found = intervals.noise_interval([counts], metric, deviation, confidence)
    if metric == "loss":
        found = found.times(cap)
    return found, gate is not None and gates.breached(gate, counts, deviation, cap)


def _plan(plan: Row) -> PrivacyPlan | None:
    try:
        return read(plan["body"])
    except ConfigError:
        return None


def _words(ablation: Any) -> str:
    return ablation if isinstance(ablation, str) else json.dumps(ablation, sort_keys=True)
