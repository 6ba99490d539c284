"""The shortcut through secure aggregation: the same sums, named for what it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY_SECURE, make_tiny

from tacit import simulate
from tacit.client.app import make_app
from tacit.configs import build, wire
from tacit.privacy.messages import TrainRequest
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.statement.registry import registry_entry
from tacit.server.home import Home
from tacit.server.statements import of_version
from tacit.server.store import Store
from tacit.simulations.grid import InProcessGrid
from tacit.tasks.task import plan


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["evaluation=federated"],
        ["mechanism=discrete_gaussian"],
        ["privacy.client=adaptive"],
        ["privacy.client=none", "secure.dropout=0.2"],
    ],
    ids=lambda x: "-".join(x) or "skellam",
)
def test_it_makes_the_same_models_and_metrics(tmp_path: Path, overrides: list[str]) -> None:
    made = []
    for protocol in ("full", "shortcut"):
        settings = [*TINY_SECURE, *overrides, f"secure.protocol={protocol}"]
        result = simulate(settings, task=make_tiny(), home=tmp_path / protocol)
        store = Store(Home(tmp_path / protocol))
        artifacts = [version["artifact"] for version in store.versions(run=result.run)]
        made.append((artifacts, result.metrics))
    assert len(made[0][0]) == 3
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("settings", "protocol"),
    [([], "shortcut"), (["faults.drop=0.01"], "full"), (["secure.protocol=full"], "full")],
)
def test_a_simulation_takes_it_unless_the_protocol_is_studied(
    tmp_path: Path, settings: list[str], protocol: str
) -> None:
    base = [*TINY_SECURE, "secure.protocol=auto", "attempts=9", "rounds=1", *settings]
    result = simulate(base, task=make_tiny(), home=tmp_path)
    store = Store(Home(tmp_path))
    run = store.run(result.run)
    assert json.loads(run["spec"])["secure"]["protocol"] == protocol
    named = "shortcut" if protocol == "shortcut" else "secure"
    assert json.loads(run["plan"])["aggregation"] == named


def told(home: Path, protocol: str) -> tuple[list[dict[str, object]], str]:
    result = simulate(
        [*TINY_SECURE, "seed=null", "rounds=1", f"secure.protocol={protocol}"],
        task=make_tiny(),
        home=home,
    )
    store = Store(Home(home))
    return store.claims(result.run), json.dumps(of_version(store, store.versions()[-1]))


def test_ledger_and_statement_name_it(tmp_path: Path) -> None:
    (full, plain), (short, warned) = told(tmp_path / "a", "full"), told(tmp_path / "b", "shortcut")
    for row, other in zip(full, short, strict=True):
        place = (row["unit"], row["adversary"], row["amplified"], row["epsilon"])
        assert place == (other["unit"], other["adversary"], other["amplified"], other["epsilon"])
        hidden = row["adversary"] in ("coordinator", "collusion") and row["epsilon"] is not None
        assert ("this simulation left out" in str(other["assumes"])) == hidden
        assert "this simulation left out" not in str(row["assumes"])
    assert "it left out the masks" in warned
    assert "it left out the masks" not in plain
    assert "whoever ran it could see" in warned
    assert "secure aggregation holds" in plain
    store = Store(Home(tmp_path / "b"))
    made = of_version(store, store.versions()[-1])
    assert not any("Against the coordinator that bound" in line for line in made["summary"])
    # A simulation's entry has no epsilon.
    assert '"epsilon"' not in json.dumps(registry_entry(made))
    full_store = Store(Home(tmp_path / "a"))
    whole = of_version(full_store, full_store.versions()[-1])
    assert '"epsilon"' in json.dumps(registry_entry(whole))


def test_a_client_that_is_no_simulations_refuses_it() -> None:
    task = make_tiny()
    spec = build.compose([*TINY_SECURE, "secure.protocol=shortcut"])
    settled: PrivacyPlan = plan(task, spec)
    grid = InProcessGrid(make_app(task), spec.clients, {"spec": json.dumps(spec.to_dict())})
    request = TrainRequest(
        "r", 1, 0, settled.digest(), "", 1.0, 12, b"", np.zeros(10, dtype=np.float32)
    )
    message = grid.create_message(wire.pack(request), "train", grid.nodes[0], "1")
    (reply,) = grid.send_and_receive([message])
    assert reply.has_error()
    assert "as only simulations may" in str(reply.error.reason)
