"""Audits: a real run with canaries in it, and what the public finds out about them.

Guarantees: the run is `tacit.simulations.engine.simulate`'s, with every setting it can have;
the attacker sees the released models, knows the configuration, and all about the canaries but
their coins. With `audit_one_run` the lower bound is above the true epsilon with probability at
most 1 - ``confidence`` (`tacit.privacy.audit.one_run`); `audit_one_shot` needs normality on top
(`tacit.privacy.audit.one_shot`).

It is held against the run's claim for the unit against the public at the same delta: the
amplified one where there is one, since the draws are hidden from this attacker too. A coin
decides between a canary client's vector and a zero vector in its place: for noise in shares
the relation of the plan, and with mechanism=central indistinguishable from its absence. A
canary record is added or not. What a claim spends beside training, such as on federated
evaluations, no canary client shows in, which only makes the bound smaller.

It doesn't guarantee to find a fault that there is, and says nothing of adversaries who see
more than the public.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch

from tacit.client.app import make_trainer
from tacit.configs import build
from tacit.configs.spec import RunSpec
from tacit.privacy import validate
from tacit.privacy.audit import one_run, one_shot
from tacit.privacy.audit.canaries import Canaries, Method
from tacit.privacy.audit.one_run import Guesses
from tacit.privacy.errors import ConfigError
from tacit.privacy.units import Unit
from tacit.server.coordinator import RoundResult
from tacit.server.home import Home
from tacit.server.registry import ModelRegistry
from tacit.server.store import Row, Store
from tacit.simulations.engine import Result, simulate
from tacit.simulations.planting import Plant, PlantedClients, PlantedRecords, Released
from tacit.tasks import vector
from tacit.tasks.task import Records, Task, check, load, make_model

_LARGEST = 1e9
Started = Callable[[Row, RunSpec], None]
Progress = Callable[[RoundResult], None]
Place = str | PathLike[str] | None


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What an audit found, beside what it is held against.

    Attributes:
        run: the audited run.
        method: "one-run" or "one-shot".
        unit: "client" or "record".
        adversary: whose view was attacked: "public".
        delta: at which all epsilons are.
        lower_bound: on epsilon, at ``confidence``.
        estimate: of epsilon; None with "one-run".
        confidence: of the lower bound.
        charged: epsilon of the run's claim; None where it claims nothing.
        amplified: whether that claim counts on hidden draws.
        canaries: how many.
        commitment: to them, made before training.
        secret: opens it, in hex.
        detail: of the method: guesses and how many were right, or the fitted normals.
    """

    run: str
    method: Method
    unit: Unit
    adversary: str
    delta: float
    lower_bound: float
    estimate: float | None
    confidence: float
    charged: float | None
    amplified: bool
    canaries: int
    commitment: str
    secret: str
    detail: dict[str, Any]

    @property
    def violated(self) -> bool:
        """Whether the mechanism isn't what the claim says, at this confidence."""
        return self.charged is not None and self.lower_bound > self.charged

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "run": self.run,
            "method": self.method,
            "unit": self.unit,
            "adversary": self.adversary,
            "delta": self.delta,
            "lower_bound": self.lower_bound,
            "estimate": self.estimate,
            "confidence": self.confidence,
            "charged": self.charged,
            "amplified": self.amplified,
            "canaries": self.canaries,
            "commitment": self.commitment,
            "secret": self.secret,
            "detail": self.detail,
            "violated": self.violated,
        }


def audit_one_run(
    overrides: Sequence[str] = (),
    *,
    unit: Unit = "client",
    canaries: int = 100,
    task: Task | None = None,
    home: Place = None,
    confidence: float = 0.95,
    guesses: Sequence[int] | None = None,
    records: Records | None = None,
    secret: bytes | None = None,
    started: Started | None = None,
    progress: Progress | None = None,
) -> AuditResult:
    """A lower bound on epsilon from coins thrown for each canary of one run.

    Args:
        overrides: settings of the run, as for `simulate`; the optimizer has to be fedavg.
        unit: what a canary is.
        canaries: how many; as clients they take places in the population.
        task: your own; None finds the one the settings name.
        home: where state is kept.
        confidence: of the lower bound.
        guesses: numbers of canaries to guess "in" and as many "out", chosen before the run;
            the best counts, after a union bound. None takes `one_run.choices`.
        records: canary records of your own, with unit "record".
        secret: 32 bytes the canaries derive from; None draws it.
        started: as for `simulate`.
        progress: as for `simulate`.

    Raises:
        TacitError: as `simulate`; a ConfigError where the run can't be audited.
    """
    validate.open_unit("confidence", confidence)
    made = _canaries(unit, "one-run", canaries, secret)
    ways = _ways(guesses, canaries)
    spec, found = _checked(overrides, task)
    if unit == "record":
        plant: Plant = PlantedRecords(found, spec, made, records)
    elif records is not None:
        raise ConfigError("records can't be planted with unit=client", "use unit=record")
    else:
        plant = PlantedClients(found, spec, made)
    result = _run(overrides, plant, made, home, (started, progress))
    claim = _claim(result, unit)
    scores = plant.scores(_released(result.run, home, found, spec))
    best = one_run.audit(scores, made.included(), claim["delta"], confidence, ways)
    detail = {
        "top": best.guesses.top,
        "bottom": best.guesses.bottom,
        "correct": best.correct,
        "included": int(made.included().sum()),
    }
    found_out = _result(result, claim, made, confidence, (best.lower_bound, None), detail)
    return _recorded(found_out, home)


def audit_one_shot(
    overrides: Sequence[str] = (),
    *,
    canaries: int = 100,
    statistic: str = "final",
    task: Task | None = None,
    home: Place = None,
    confidence: float = 0.95,
    secret: bytes | None = None,
    started: Started | None = None,
    progress: Progress | None = None,
) -> AuditResult:
    """An estimate of epsilon from how far canary clients show, all of them in the run.

    Args:
        overrides: as for `audit_one_run`.
        canaries: how many clients; their number should stay well below the model's size
            times the squared noise multiplier.
        statistic: "final", the cosine with all that was released, or "max", the largest with
            one round's release.
        task: as for `audit_one_run`.
        home: as for `audit_one_run`.
        confidence: of the lower bound, given normality.
        secret: as for `audit_one_run`.
        started: as for `simulate`.
        progress: as for `simulate`.

    Raises:
        TacitError: as `audit_one_run`.
    """
    validate.open_unit("confidence", confidence)
    validate.one_of("statistic", statistic, ("final", "max"))
    made = _canaries("client", "one-shot", canaries, secret)
    spec, found = _checked(overrides, task)
    plant = PlantedClients(found, spec, made)
    result = _run(overrides, plant, made, home, (started, progress))
    claim = _claim(result, "client")
    updates = _released(result.run, home, found, spec).updates
    size = updates.shape[1]
    if statistic == "final":
        seen = one_shot.cosines(plant.directions, updates.sum(axis=0)[None])[0]
        shown = one_shot.estimate_known(seen, size, claim["delta"], confidence)
    else:
        seen = one_shot.cosines(plant.directions, updates).max(axis=0)
        fresh = made.directions(size, "unseen")
        unseen = one_shot.cosines(fresh, updates).max(axis=0)
        shown = one_shot.estimate_measured(seen, unseen, claim["delta"], confidence)
    detail = {
        "statistic": statistic,
        "seen": [shown.seen.mean, shown.seen.deviation],
        "unseen": [shown.unseen.mean, shown.unseen.deviation],
    }
    bounds = (shown.lower_bound, shown.epsilon)
    return _recorded(_result(result, claim, made, confidence, bounds, detail), home)


def _canaries(unit: Unit, method: Method, count: int, secret: bytes | None) -> Canaries:
    if secret is None:
        return Canaries.drawn(unit, method, count)
    return Canaries(unit, method, count, secret)


def _ways(guesses: Sequence[int] | None, canaries: int) -> tuple[Guesses, ...] | None:
    """Ways to guess that fit the canaries, checked before the run."""
    if guesses is None:
        return None
    for side in guesses:
        validate.at_least("guesses", side, 1)
        if 2 * side > canaries:
            raise ConfigError(f"guesses={side} on each side are more than canaries={canaries}")
    return tuple(Guesses(side, side) for side in guesses)


def _checked(overrides: Sequence[str], task: Task | None) -> tuple[RunSpec, Task]:
    spec = build.compose(overrides)
    if spec.optimizer.kind != "fedavg":
        raise ConfigError(
            f"optimizer={spec.optimizer.kind} can't be audited: its steps don't show each "
            "round's update",
            "use optimizer=fedavg",
        )
    return spec, check(task, spec) if task is not None else load(spec)


def _run(
    overrides: Sequence[str],
    plant: Plant,
    canaries: Canaries,
    home: Place,
    callbacks: tuple[Started | None, Progress | None],
) -> Result:
    """The run, committed to before it begins."""
    began, progress = callbacks

    def started(run: Row, spec: RunSpec) -> None:
        leaf = {"kind": "AUDIT", "run": run["id"], "stage": "commitment", **canaries.to_json()}
        with _store(home) as store:
            store.append({**leaf, "commitment": canaries.commitment()})
        if began is not None:
            began(run, spec)

    return simulate(
        overrides,
        task=plant.task,
        home=home,
        started=started,
        progress=progress,
        # What is audited is what a deployed client runs, not a simulation's engine.
        trainer=plant.trainer or make_trainer,
    )


def _released(run: str, home: Place, task: Task, spec: RunSpec) -> Released:
    """The models of a run, read from its artifacts, and the updates between them."""
    model = make_model(task, spec.seed)
    models = [vector.read(model).astype(np.float64)]
    with _store(home) as store:
        registry = ModelRegistry(store.home, store)
        for version in store.versions(run=run):
            arrays = registry.load(version)
            model.load_state_dict({n: torch.from_numpy(a) for n, a in arrays.items()})
            models.append(vector.read(model).astype(np.float64))
    stacked = np.stack(models)
    return Released(stacked, np.diff(stacked, axis=0) / spec.optimizer.learning_rate)


def _claim(result: Result, unit: Unit) -> Row:
    """The strongest claim against the public."""
    rows = [c for c in result.claims if (c["unit"], c["adversary"]) == (unit, "public")]
    claimed = [row for row in rows if row["epsilon"] is not None]
    return min(claimed, key=lambda row: row["epsilon"]) if claimed else rows[0]


def _result(
    result: Result,
    claim: Row,
    canaries: Canaries,
    confidence: float,
    bounds: tuple[float, float | None],
    detail: dict[str, Any],
) -> AuditResult:
    return AuditResult(
        run=result.run,
        method=canaries.method,
        unit=canaries.unit,
        adversary="public",
        delta=claim["delta"],
        lower_bound=bounds[0],
        estimate=bounds[1],
        confidence=confidence,
        charged=claim["epsilon"],
        amplified=claim["amplified"],
        canaries=canaries.count,
        commitment=canaries.commitment(),
        secret=canaries.secret.hex(),
        detail=detail,
    )


def _recorded(result: AuditResult, home: Place) -> AuditResult:
    """Appends what was found; if it refutes the claim, that freezes releases."""
    bounds = {"lower_bound": result.lower_bound, "estimate": result.estimate}
    # JSON has no infinity; a smaller lower bound is one too.
    finite = {name: None if x is None else min(x, _LARGEST) for name, x in bounds.items()}
    body = {"kind": "AUDIT", "stage": "result", **result.to_json(), **finite}
    with _store(home) as store:
        store.append(body)
    return result


@contextlib.contextmanager
def _store(home: Place) -> Iterator[Store]:
    store = Store(Home(home))
    try:
        yield store
    finally:
        store.close()
