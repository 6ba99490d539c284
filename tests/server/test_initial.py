"""A run that begins with a released version: what it begins with, and what that costs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TINY, TINY_SECURE, make_tiny

from tacit import simulate
from tacit.privacy.errors import BudgetError, ConfigError, StorageError
from tacit.privacy.ledger import Spending
from tacit.privacy.log.notes import SignerKey
from tacit.privacy.log.verify import Report, Verifier
from tacit.privacy.plans import read
from tacit.privacy.policy import Policy
from tacit.server import check
from tacit.server.exports import export
from tacit.server.governance import Governance
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.registry import ModelRegistry
from tacit.server.retrain import fits
from tacit.server.statements import of_version
from tacit.server.store import Store

NOISELESS = [
    *TINY,
    "privacy.client.noise_multiplier=0",
    "privacy.record.noise_multiplier=0",
    "optimizer=fedavg",
    "optimizer.learning_rate=1e-6",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("initial")
    simulate(TINY, task=make_tiny(), home=folder)
    simulate([*TINY, "rounds=2", "seed=5", "initial=tiny@2"], task=make_tiny(), home=folder)
    return folder


@pytest.fixture
def store(root: Path) -> Store:
    return Store(Home(root))


def test_a_run_begins_where_the_version_is(tmp_path: Path) -> None:
    first = simulate([*NOISELESS, "optimizer.learning_rate=1"], task=make_tiny(), home=tmp_path)
    store = Store(Home(tmp_path))
    life = Lifecycle(store)
    life.move("tiny", "champion", 3, expected=None, actor="a", reason="b")
    second = simulate([*NOISELESS, "initial=tiny@champion"], task=make_tiny(), home=tmp_path)
    own = simulate(NOISELESS, task=make_tiny(), home=tmp_path)
    registry = ModelRegistry(store.home, store)
    began, after, other = (registry.get(r.artifact_sha256) for r in (first, second, own))
    # With so small a step of the optimizer it stays where it began.
    np.testing.assert_allclose(after["weight"], began["weight"], atol=1e-4)
    assert np.abs(other["weight"] - began["weight"]).max() > 1e-2
    # The alias is settled once and for all.
    assert json.loads(store.run(second.run)["spec"])["initial"] == "tiny@3"
    store.close()


def test_what_was_spent_on_the_version_counts(store: Store) -> None:
    first, second = store.runs()
    alone = Spending({"client": 0.5, "record": 0.5}).deltas
    assert alone
    rows = {
        (r["unit"], r["adversary"], r["amplified"]): r["epsilon"] for r in store.claims(first["id"])
    }
    both = {
        (r["unit"], r["adversary"], r["amplified"]): r["epsilon"]
        for r in store.claims(second["id"])
    }
    key = ("client", "public", False)
    assert both[key] > rows[key]
    base = store.base(second["id"])
    assert base is not None
    assert base.epsilon(*key) == pytest.approx(rows[key])
    # Five rounds of one mechanism at one delta, whichever run charged them.
    whole = simulate([*TINY, "rounds=5"], task=make_tiny(), home=store.home.root / "whole")
    same = {(r["unit"], r["adversary"], r["amplified"]): r["epsilon"] for r in whole.claims}
    assert both[key] == pytest.approx(same[key], rel=1e-6)
    assert store.base(first["id"]) is None
    stated = store.rounds(second["id"])[-1]["epsilon"]["client_unamplified"]
    assert stated == pytest.approx(both[key])
    newest = store.versions(run=second["id"])[-1]
    said = of_version(store, newest)
    assert str(both[key]) in json.dumps(said)
    assert said["model"]["began_with"] == "tiny@2; the figures count what was spent on it"


def test_a_population_counts_each_charge_once(store: Store, tmp_path: Path) -> None:
    report = check.verify(store)
    assert report.findings == []
    (population,) = report.populations
    key = ("client", "public", False)
    found = {(r["unit"], r["adversary"], r["amplified"]): r["epsilon"] for r in population["rows"]}
    newest = {
        (r["unit"], r["adversary"], r["amplified"]): r["epsilon"] for r in report.runs[-1]["rows"]
    }
    # All five rounds of both runs are in the second one's figure as well.
    assert found[key] == pytest.approx(newest[key], rel=1e-6)
    path = tmp_path / "ledger.tacit"
    export(store, str(path))
    assert verified([json.loads(line) for line in path.read_text().splitlines()]).findings == []


def verified(lines: list[dict[str, object]]) -> Report:
    header, leaves = lines[0], [x for x in lines[1:] if "kind" in x]
    verifier = Verifier()
    for leaf in leaves:
        verifier.add(json.dumps(leaf, sort_keys=True, separators=(",", ":"), ensure_ascii=False))
    return verifier.finish(str(header["checkpoint"]))


@pytest.mark.parametrize(
    ("field", "value"), [("artifact", "a" * 64), ("release", 0), ("number", 3), ("model", "other")]
)
def test_the_verifier_finds_a_beginning_that_was_not_released(
    store: Store, tmp_path: Path, field: str, value: object
) -> None:
    path = tmp_path / "ledger.tacit"
    export(store, str(path))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    plan = next(x for x in lines if "initial" in x)
    plan["initial"][field] = value
    said = [str(finding) for finding in verified(lines).findings]
    assert any("wasn't released as it says" in line for line in said), said


def test_a_beginning_that_is_hidden_is_found(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "ledger.tacit"
    export(store, str(path))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    del next(x for x in lines if "initial" in x)["initial"]
    said = [str(finding) for finding in verified(lines).findings]
    assert any("states epsilon" in line for line in said), said


def test_a_version_of_another_model_is_refused(store: Store) -> None:
    wide = dataclasses.replace(make_tiny(), model=lambda: torch.nn.Linear(4, 3))
    before = len(store.runs())
    with pytest.raises(ConfigError, match="isn't of task tiny's model"):
        simulate([*TINY, "initial=tiny@1"], task=wide, home=store.home.root)
    with pytest.raises(StorageError, match="tiny@99"):
        simulate([*TINY, "initial=tiny@99"], task=make_tiny(), home=store.home.root)
    assert len(store.runs()) == before


def test_rows_that_only_one_of_the_two_claims_are_not_claimed(tmp_path: Path) -> None:
    simulate(TINY, task=make_tiny(), home=tmp_path)
    secure = [*TINY_SECURE, "secure.protocol=shortcut", "initial=tiny@3", "rounds=1"]
    second = simulate(secure, task=make_tiny(), home=tmp_path)
    store = Store(Home(tmp_path))
    rows = {
        (r["unit"], r["adversary"], r["amplified"]): r["epsilon"] for r in store.claims(second.run)
    }
    # The first run trusted the coordinator with each update.
    assert rows["client", "coordinator", False] is None
    assert rows["client", "public", False] is not None
    assert check.verify(store).findings == []
    store.close()


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize("name", ["run_epsilon", "review_epsilon"])
def test_a_runs_cap_and_its_review_count_what_came_before(tmp_path: Path, name: str) -> None:
    """A chain of runs, each small alone, isn't a way past either."""
    first = simulate([*TINY, "rounds=2"], task=make_tiny(), home=tmp_path)
    store = Store(Home(tmp_path))
    plan = json.loads(store.run(first.run)["plan"])
    alone = next(
        row["epsilon"]
        for row in first.claims
        if (row["unit"], row["adversary"], row["amplified"]) == ("client", "public", True)
    )
    reviewer = SignerKey.generate("reviewer")
    terms: dict[str, Any] = {name: 1.01 * alone, "delta": plan["client_delta"]}
    if name == "review_epsilon":
        terms["reviewers"] = (str(reviewer.verifier),)
    Governance(store).adopt(Policy(population="tiny", **terms), None)
    again = simulate([*TINY, "rounds=2", "budget.wait=0"], task=make_tiny(), home=tmp_path)
    assert (again.status, again.rounds) == ("finished", 2)
    begun = [*TINY, "rounds=2", "seed=7", "initial=tiny@2", "budget.wait=0"]
    with pytest.raises(BudgetError, match="waits for a review" if "reviewers" in terms else name):
        simulate(begun, task=make_tiny(), home=tmp_path)
    assert fits(store, "tiny", read(plan)) == (2, "")
    release = store.versions(run=first.run)[-1]["release"]
    assert fits(store, "tiny", read(plan), release)[0] == 0
    assert check.verify(store).findings == []
    store.close()
