"""Processes that spend one population's budget at the same time; run by test_governance."""

from __future__ import annotations

import json
import secrets
from multiprocessing.synchronize import Barrier

import torch._dynamo  # noqa: F401 - what a run would import late, once for all processes
from tiny import TINY, make_tiny

from tacit import simulate
from tacit.privacy import participation
from tacit.privacy.errors import BudgetError
from tacit.privacy.log import leaves
from tacit.privacy.log.leaves import Body
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.plans import read
from tacit.privacy.units import ClientUnit
from tacit.server.governance import Governance
from tacit.server.home import Home
from tacit.server.store import Store

DELTA = 1e-5
PLAN = PrivacyPlan(
    population=100,
    sampling_rate=0.2,
    rounds=10,
    client=ClientUnit(1.0, 1.2),
    record=None,
    client_delta=DELTA,
    record_delta=DELTA,
    minimum_survivors=5,
    noise_source="os-csprng",
)


def new_run(store: Store, run: str, plan: PrivacyPlan, population: str = "p") -> str:
    """A run with its PLAN leaf."""
    row = {"id": run, "name": f"model-{run}", "population": population, "code": "c"}
    body = plan.to_json()
    row |= {"spec": "{}", "spec_digest": leaves.digest({})}
    store.create_run({**row, "plan": json.dumps(body), "plan_digest": plan.digest()})
    return run


def charge(store: Store, governance: Governance, run: str, attempt: int = 0) -> int:
    """Asks for one more charge of a run's first round, and appends it."""
    plan = read(json.loads(store.run(run)["plan"]))
    salt = secrets.token_bytes(32)
    body: Body = leaves.charge(
        run=run,
        round=1,
        attempt=attempt,
        purpose="train",
        plan_digest=plan.digest(),
        cohort=leaves.commit(salt, []),
        claims=plan.training(),
        participations=participation.bound(attempt + 1, plan.sampling_rate, plan.population),
        noise_source=plan.noise_source,
    )
    return store.append(body, (salt, []), lambda c, at: governance.check(c, run, [body], at))


def spend(root: str, url: str | None, run: str, together: Barrier) -> None:
    """Charges until it is refused a third time; exits with how many were admitted."""
    store = Store(Home(root, url))
    governance, admitted, refused = Governance(store), 0, 0
    together.wait(60)
    while refused < 3:
        try:
            charge(store, governance, run, admitted)
        except BudgetError:
            refused += 1
        else:
            admitted += 1
    store.close()
    raise SystemExit(admitted)


def federate(root: str, seed: int, together: Barrier) -> None:
    """A whole federation; exits with the rounds it released."""
    task = make_tiny()
    together.wait(60)
    try:
        result = simulate([*TINY, "rounds=6", f"seed={seed}"], task=task, home=root)
    except BudgetError:
        raise SystemExit(0) from None
    raise SystemExit(result.rounds)
