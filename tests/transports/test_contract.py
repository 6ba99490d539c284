"""One contract, four transports: called, SuperNodes, devices, and some of each.

The same configuration makes the same plan, the same charges and claims, and as good as the same
model, whatever is between coordinator and clients; who drops out or refuses does so everywhere.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checking import check_exposures, check_log
from tiny import make_tiny
from transports import Devices, InProcess, Mixed, Outcome, Silos, Transport

from tacit.client.floors import Floors
from tacit.configs import build
from tacit.server.registry import ModelRegistry
from tacit.server.store import Store
from tacit.tasks.task import load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# So little noise, and whole batches: what is left of chance is rounding.
SETTINGS = [
    "experiment=digits",
    "clients=3",
    "cohort=3",
    "minimum_survivors=3",
    "rounds=2",
    "seed=null",
    "attempts=1",
    "secure.protocol=full",
    "privacy/client=none",
    "privacy.record.noise_multiplier=0.02",
    "privacy.record.sampling_rate=1.0",
    "privacy.record.clip=1.0",
    "local.steps=1",
    "local.learning_rate=1.0",
    "optimizer=fedavg",
    "optimizer.learning_rate=8.0",
]
SIX = [
    "experiment=none",
    "clients=6",
    "cohort=6",
    "minimum_survivors=4",
    "rounds=1",
    "attempts=1",
    "seed=null",
    "mechanism=skellam",
    "aggregation=secure",
    "secure.protocol=full",
    "secure.dropout=0.3",
    "privacy.client.noise_multiplier=1.0",
    "privacy.record.noise_multiplier=1.0",
]
# What differs from run to run: names, times, digests of what was drawn.
VOLATILE = {"at", "run", "artifact", "report", "state", "cohort", "parent", "message", "spec"}
VOLATILE |= {"metrics", "code", "actor", "number", "charge", "model", "key", "origin", "signature"}


@functools.cache
def digits() -> Any:
    return load(build.compose(SETTINGS))


def leaves(outcome: Outcome) -> list[dict[str, Any]]:
    """A run's leaves, but for what is volatile; the books are checked on the way."""
    store = Store(outcome.home)
    bodies = check_log(store)
    check_exposures(store, bodies)
    store.close()
    mine = [body for body in bodies if body["run"] == outcome.run]
    return [{k: v for k, v in body.items() if k not in VOLATILE} for body in mine]


def model(outcome: Outcome) -> np.ndarray:
    """The last version's parameters."""
    store = Store(outcome.home)
    registry = ModelRegistry(outcome.home, store)
    row = [v for v in store.versions() if v["run"] == outcome.run][-1]
    loaded = registry.get(row["artifact"])
    store.close()
    return np.concatenate([np.ravel(loaded[name]) for name in sorted(loaded)])


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What the others are held to."""
    return InProcess(tmp_path_factory.mktemp("reference"), digits(), SETTINGS).run()


deep = pytest.mark.skipif(os.environ.get("TACIT_DEEP") != "1", reason="TACIT_DEEP=1 runs it")
Make = Callable[..., Transport]


@pytest.mark.parametrize("kind", [InProcess, Devices, Mixed, Silos])
def test_the_same_plan_charges_and_model(kind: Make, reference: Outcome, tmp_path: Path) -> None:
    made = kind(tmp_path, digits(), SETTINGS).run()
    assert made.error == ""
    assert made.accepted == [3, 3]
    assert leaves(made) == leaves(reference)
    ours, theirs = model(made), model(reference)
    assert np.linalg.norm(ours - theirs) < 0.05 * np.linalg.norm(theirs)
    assert sorted(made.ledgers) == [0, 1, 2]
    spent = [ledger.spent() for ledger in made.ledgers.values()]
    assert {s.participations for s in spent} == {2}
    # What clients reckon for themselves is one figure, and the coordinator's.
    (own,) = {s.record.epsilon for s in spent}
    stated = [b for b in leaves(reference) if b["kind"] == "RELEASE"][-1]["epsilon"]
    assert own == pytest.approx(stated["record_coordinator"], rel=1e-5)


# A deployment takes a minute to come up.
@pytest.mark.parametrize("kind", [InProcess, Devices, Mixed, pytest.param(Silos, marks=deep)])
def test_a_refusal_ends_what_cannot_do_without_and_says_why(kind: Make, tmp_path: Path) -> None:
    strict = {1: dataclasses.replace(Floors(), seeded=False, rounds=0)}
    made = kind(tmp_path, digits(), SETTINGS, strict).run()
    assert made.accepted == []
    assert "rounds=0 have been taken part in" in made.error
    kinds = [leaf["kind"] for leaf in leaves(made)]
    assert kinds.count("CHARGE") == kinds.count("ABANDON") == 1
    assert "RELEASE" not in kinds
    assert made.ledgers[1].spent().refused == {"ROUNDS": 1}


@pytest.mark.parametrize("kind", [InProcess, Devices, Mixed])
@pytest.mark.parametrize("leg", ["query.share", "train", "query.reveal"])
def test_a_round_does_without_who_drops_out(kind: Make, leg: str, tmp_path: Path) -> None:
    made = kind(tmp_path, make_tiny(6), SIX, None, {leg: [5]}).run()
    assert made.error == ""
    assert made.accepted == [6 if leg == "query.reveal" else 5]
    assert [x["kind"] for x in leaves(made)].count("RELEASE") == 1
