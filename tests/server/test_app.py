"""The ServerApp: refuses a seed where it would have to protect somebody."""

from __future__ import annotations

from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from tacit.client.app import make_app
from tacit.privacy.errors import ConfigError, StorageError
from tacit.privacy.secagg.directory import enrol
from tacit.server.app import main
from tacit.server.home import Home
from tacit.server.store import Store
from tacit.simulations.grid import InProcessGrid

SETTINGS = "clients=4 cohort=4 rounds=1 model=pixels"


def run(home: Path, overrides: str) -> None:
    """What Flower does in a deployment: a Grid that isn't its simulation's."""
    config = {"overrides": overrides, "home": str(home), "resume": ""}
    context = Context(
        run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=dict(config)
    )
    main(InProcessGrid(make_app(), 4, config), context)


def test_a_seed_is_refused_in_a_deployment(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"seed=0 is for simulations"):
        run(tmp_path / "home", SETTINGS)
    assert not (tmp_path / "home").exists()


HOWS = ["", "mechanism=central aggregation=plain", "aggregation=plain"]


@pytest.mark.parametrize("how", HOWS)
def test_without_a_seed_it_runs_to_the_end(tmp_path: Path, how: str) -> None:
    # What clients and coordinator were given before the first round.
    enrol(tmp_path / "home" / "clients", 4)
    run(tmp_path / "home", f"{SETTINGS} seed=null {how}")
    store = Store(Home(tmp_path / "home"))
    (row,) = store.runs()
    assert (row["status"], row["round"]) == ("finished", 1)
    (charge, _) = store.spending()
    assert charge["body"]["noise_source"] == "os-csprng"
    if not how:
        assert len(list((tmp_path / "home" / "clients").glob("*.vault"))) == 4


@pytest.mark.parametrize("how", HOWS)
def test_a_deployment_makes_no_identities_of_its_own(tmp_path: Path, how: str) -> None:
    with pytest.raises(StorageError, match="directory") as caught:
        run(tmp_path / "home", f"{SETTINGS} seed=null {how}")
    assert "public keys" in caught.value.hint
    assert Store(Home(tmp_path / "home")).spending() == []
