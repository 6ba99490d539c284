"""Training a model anew: why, from which version, and how many rounds of it the policies allow.

Guarantees: a retraining that a policy would refuse in the middle is found out beforehand, and
nothing is charged; `fits` asks `tacit.privacy.governor` what the coordinator will be asked, charge
by charge. Between asking and charging others may spend: the coordinator asks again, in the
transaction of each charge.

It begins with the version that the alias names, so what was spent on that counts in every figure.
In a simulation it draws from another seed than any run before: the same draws again would be the
same noise again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tacit.configs import build
from tacit.configs.spec import RunSpec
from tacit.privacy import participation
from tacit.privacy.errors import BudgetError, MissingError
from tacit.privacy.governor import Governor
from tacit.privacy.log import leaves
from tacit.privacy.log.plans import evaluates
from tacit.privacy.plan import PrivacyPlan
from tacit.server import log as logs
from tacit.server import runs
from tacit.server.lifecycle import CHAMPION, Lifecycle
from tacit.server.registry import ModelRegistry
from tacit.server.store import Store
from tacit.tasks.task import Task, load
from tacit.tasks.task import plan as privacy_plan

_PROBE = "to be retrained"


@dataclass(frozen=True, slots=True)
class Proposal:
    """A retraining, before anything of it is done.

    Attributes:
        model: which.
        alias: whose version it begins with.
        initial: that version, NAME@NUMBER.
        cause: leaf of the fallback that asks for it; None if somebody does.
        spec: its configuration.
        planned: rounds that the configuration asks for.
        allowed: how many of them the policies allow; those of ``spec``, if that isn't 0.
        refusal: what a policy says to the first round that it doesn't allow; "" if it allows all.
    """

    model: str
    alias: str
    initial: str
    cause: int | None
    spec: RunSpec
    planned: int
    allowed: int
    refusal: str

    def to_json(self) -> dict[str, Any]:
        """As plain data; the configuration as overrides would have it."""
        same = ("model", "alias", "initial", "cause", "planned", "allowed", "refusal")
        return {**{name: getattr(self, name) for name in same}, "spec": self.spec.to_dict()}


def cause(store: Store, model: str, alias: str = CHAMPION) -> int | None:
    """Leaf of the newest automatic fallback of an alias that no training has followed."""
    fallen = [
        row["index"]
        for row in Lifecycle(store).history(model)
        if row["body"].get("automatic") and row["body"]["alias"] == alias
    ]
    if not fallen:
        return None
    trained = [
        row["index"]
        for row in store.leaves(kinds=("PLAN",))
        if row["body"]["name"] == model and "rollout" not in row["body"]
    ]
    return fallen[-1] if max(trained, default=-1) < fallen[-1] else None


def propose(
    store: Store,
    model: str,
    alias: str = CHAMPION,
    overrides: Sequence[str] = (),
    task: Task | None = None,
) -> Proposal:
    """What a retraining would be.

    Args:
        store: of the home.
        model: which.
        alias: whose version it begins with.
        overrides: settings that differ from those of that version's training.
        task: what is learned; None finds the one that the configuration names.

    Raises:
        MissingError: the alias names no version.
        ConfigError: a setting that there isn't, or that makes no plan.
    """
    current = Lifecycle(store).current(model, alias)
    if current is None or current.number is None:
        raise MissingError(f"{model}@{alias} names no version", f"tacit models promote {model}@N")
    name = f"{model}@{current.number}"
    row = ModelRegistry(store.home, store).find(name)
    begun = runs.spec_of(store.run(row["run"]))
    spec = dataclasses.replace(begun, name=model, initial=name, seed=_unused(store, begun))
    spec = build.changed(spec, overrides)
    found = task if task is not None else load(spec)
    population = spec.population or found.name
    allowed, refusal = fits(store, population, privacy_plan(found, spec), row["release"])
    planned = spec.rounds
    if 0 < allowed < planned:
        spec = _shorter(store, spec, found, allowed, row["release"])
    return Proposal(model, alias, name, cause(store, model, alias), spec, planned, allowed, refusal)


def fits(
    store: Store, population: str, plan: PrivacyPlan, initial: int | None = None
) -> tuple[int, str]:
    """How many rounds of a new run the policies allow, and what the next one is refused with.

    Args:
        store: of the ledger.
        population: whose data.
        plan: of the run.
        initial: RELEASE of the version that it begins with; None for none.

    Returns:
        Rounds from 0 to the plan's, and "" if it is all of them.
    """
    low, high = 0, plan.rounds
    said = _refused(store, population, plan, plan.rounds, initial)
    if not said:
        return plan.rounds, ""
    while high - low > 1:
        middle = (low + high) // 2
        refusal = _refused(store, population, plan, middle, initial)
        low, high, said = (middle, high, said) if not refusal else (low, middle, refusal)
    return low, said


def _refused(
    store: Store, population: str, plan: PrivacyPlan, rounds: int, initial: int | None
) -> str:
    """Why the first rounds of a new run together are refused; "" if they aren't."""
    governor = Governor()
    with store.database.reading() as c:
        kinds = ("KEY", "PLAN", "CHARGE", "RELEASE", "APPROVAL", "POLICY", "AUDIT", "RESTORE")
        for index, body in logs.bodies(c, kinds):
            governor.note(index, body)
        size = logs.size(c)
    probe: leaves.Body = {"kind": "PLAN", "run": _PROBE, "name": "", "population": population}
    probe |= {"plan": plan.digest(), "body": plan.to_json()}
    probe |= {} if initial is None else {"initial": {"release": initial}}
    governor.note(size, probe)
    try:
        governor.check(_PROBE, _charges(plan, rounds), logs.now())
    except BudgetError as refusal:
        return refusal.message.replace(f"run={_PROBE}: ", "")
    return ""


def _charges(plan: PrivacyPlan, rounds: int) -> list[leaves.Body]:
    """What the first rounds of a run charge."""
    claims = {"train": plan.training(), "evaluate": plan.evaluating()}
    drawn, found = {"train": 0, "evaluate": 0}, []
    for number in range(1, rounds + 1):
        purposes: list[leaves.Purpose] = ["train"]
        purposes += ["evaluate"] if evaluates(number, plan) else []
        for purpose in purposes:
            drawn[purpose] += 1
            found.append(
                leaves.charge(
                    run=_PROBE,
                    round=number,
                    attempt=0,
                    purpose=purpose,
                    plan_digest=plan.digest(),
                    cohort="",
                    claims=claims[purpose],
                    participations=participation.bound(
                        drawn[purpose], plan.sampling_rate, plan.population
                    ),
                    noise_source=plan.noise_source,
                )
            )
    return found


def _shorter(store: Store, spec: RunSpec, task: Task, allowed: int, initial: int) -> RunSpec:
    """The configuration with as many rounds as are allowed of a plan that has no more."""
    made = dataclasses.replace(spec, rounds=allowed)
    population = spec.population or task.name
    # The last round of a plan is evaluated, which the longer one's may not have been.
    while made.rounds > 1 and fits(store, population, privacy_plan(task, made), initial)[1]:
        made = dataclasses.replace(made, rounds=made.rounds - 1)
    return made


def _unused(store: Store, begun: RunSpec) -> int | None:
    """A seed that no run of this home had; None in a deployment, which has none."""
    if begun.seed is None:
        return None
    seeds = [runs.spec_of(run).seed for run in store.runs()]
    return 1 + max(seed for seed in (*seeds, begun.seed) if seed is not None)
