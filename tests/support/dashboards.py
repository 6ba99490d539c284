"""Homes for the dashboard's tests: a full one, and what a browser logs in with."""

from __future__ import annotations

import contextlib
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from tiny import TINY, make_tiny

from tacit import simulate
from tacit.privacy.errors import BudgetError
from tacit.privacy.gates import Gate
from tacit.privacy.log import leaves
from tacit.privacy.log.notes import SignerKey
from tacit.privacy.policy import Policy, best_order
from tacit.server.access.tenants import DEFAULT
from tacit.server.access.tokens import Tokens
from tacit.server.governance import Governance
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.registry import ModelRegistry
from tacit.server.store import Store

REVIEWER = SignerKey("rita", b"r" * 32)
FEDERATED = [
    *[x for x in TINY if not x.startswith("aggregation")],
    "aggregation=plain",
    "evaluation=federated",
]
HOSTILE = '<script>alert("x")</script>'
TURNED = "mod\u202eled \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \x00" + "w" * 180


def fill(root: Path) -> None:
    """Two trainings, moves, a gate, a policy that has a third run wait, and an audit's freeze."""
    task = make_tiny()
    store = Store(Home(root))
    terms = {"epsilon": 12.0, "delta": 1e-5, "order": best_order(12.0, 1e-5)}
    reviewed = {"review_epsilon": 3.0, "reviewers": (str(REVIEWER.verifier),)}
    first = Policy(population="tiny", window_days=30.0, **terms)
    Governance(store).adopt(first, None)
    for seed in (1, 2):
        simulate([*FEDERATED, f"seed={seed}", "rounds=3"], task=task, home=root)
    life = Lifecycle(store)
    who: dict[str, Any] = {"actor": "ann", "reason": "it is better"}
    moved = life.move("tiny", "champion", 3, expected=None, **who)
    life.move("tiny", "champion", 5, expected=moved.leaf, **who)
    life.move("tiny", "challenger", 6, expected=None, **who)
    gate = Gate(model="tiny", alias="champion", at_least=0.6, windows=2, fallback_rounds=2)
    said = {"actor": "ann", "reason": "the least that is of use"}
    body = {"kind": "GATE", "run": "", "model": "tiny", "alias": "champion"}
    store.append({**body, "gate": gate.to_json(), **said})
    Governance(store).adopt(Policy(population="tiny", window_days=30.0, **terms, **reviewed), None)
    waits = [*FEDERATED, "seed=3", "rounds=30", "budget.wait=0"]
    with contextlib.suppress(BudgetError):
        simulate(waits, task=task, home=root)
    store.close()


def hostile(root: Path) -> None:
    """A run and a version whose names nobody sane would give, and moves in kind."""
    store = Store(Home(root))
    for number, name in enumerate((HOSTILE, TURNED)):
        _version(store, f"run-{number}", name, f"people {name}"[:190])
        life = Lifecycle(store)
        reason = f"{name} & \u202e\u2066 'quoted' \"twice\""[:900].replace("\x00", "\x01")
        life.move(name, "champion", 1, expected=None, actor="<b>eve</b>", reason=reason)
    store.close()


def _version(store: Store, run: str, name: str, population: str) -> None:
    plan = json.loads(_plan(store))
    digest = leaves.digest(plan)
    row = {"id": run, "name": name, "population": population, "code": "<i>code</i>"}
    row |= {"spec": "{}", "spec_digest": leaves.digest({}), "plan_digest": digest}
    store.create_run({**row, "plan": json.dumps(plan)})
    charged = store.leaves(kinds=("CHARGE",))[0]["body"]
    body = {**charged, "run": run, "plan": digest, "round": 1, "attempt": 0, "purpose": "train"}
    charge = store.append({k: v for k, v in body.items() if k != "at"})
    metrics = {"accuracy": 0.5}
    artifact = ModelRegistry(store.home, store).put({"w": np.zeros(3, np.float32)})
    same = {"run": run, "round": 1, "plan": digest}
    release = {"kind": "RELEASE", **same, "attempt": 0, "purpose": "train", "charge": charge}
    release |= {"metrics": metrics, "evaluation": "public", "artifact": artifact, "epsilon": {}}
    version = {"name": name, **{k: row[k] for k in ("plan_digest", "spec_digest", "code")}}
    version |= {"run": run, "round": 1, "artifact": artifact, "charge": charge}
    rounds = {"run": run, "round": 1, "metrics": json.dumps(metrics), "epsilon": "{}"}
    rounds |= {"asked": 1, "accepted": 1, "rejected": "{}", "seconds": 1.0}
    store.release([release], {**version, "metrics": json.dumps(metrics)}, rounds, "cd" * 32)


def _plan(store: Store) -> str:
    return str(next(run["plan"] for run in store.runs() if run["round"]))


def token(root: Path, role: str = "operator", name: str = "olga", models: str = "*") -> str:
    """A token of the root's one tenant."""
    tokens = Tokens(root)
    text, _ = tokens.issue(
        name, role, tenant=DEFAULT, models=(models,), lifetime=timedelta(hours=8)
    )
    tokens.close()
    return text
