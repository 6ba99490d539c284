"""Statements of versions that were really trained, checked against plan and ledger."""

from __future__ import annotations

import functools
import html as stdlib_html
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import TINY, TINY_SECURE, make_tiny
from typer.testing import CliRunner

from tacit.cli.models import app
from tacit.privacy import participation
from tacit.privacy.accountant import Accountant, version
from tacit.privacy.errors import ConfigError, StorageError
from tacit.privacy.log.notes import signed
from tacit.privacy.plans import read
from tacit.privacy.statement.statement import NOT_CLAIMED, registry_entry
from tacit.server import statements
from tacit.server.home import Home
from tacit.server.registry import ModelRegistry
from tacit.server.store import Store
from tacit.simulations.engine import simulate

RUNS = {"central": [*TINY, "seed=null"], "secure": TINY_SECURE}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one run of each kind; the second one's noise is a simulation's."""
    root = tmp_path_factory.mktemp("statements") / "home"
    for settings in RUNS.values():
        simulate([*settings, "rounds=2"], task=make_tiny(), home=root)
    return root


@pytest.fixture
def kept(place: Path) -> Iterator[Store]:
    store = Store(Home(place))
    yield store
    store.close()


def expected(leaves: list[dict[str, Any]], run: str, upto: int) -> dict[tuple[Any, ...], float]:
    """Rows with an event of their own, composed from the plan and a count of the charges."""
    plan = read(next(b["body"] for b in leaves if b["kind"] == "PLAN" and b["run"] == run))
    draws = sum(b["kind"] == "CHARGE" and b["run"] == run for b in leaves[: upto + 1])
    most = participation.bound(draws, plan.sampling_rate, plan.population)
    charged = max(b["participations"] for b in leaves[: upto + 1] if b["kind"] == "CHARGE"
                  and b["run"] == run)  # fmt: skip
    found = {}
    for claim in plan.training():
        if claim.event is not None:
            accountant = Accountant(plan.delta(claim.unit))
            times = draws if claim.per == "release" else max(most, charged)
            accountant.compose(claim.event.times(times))
            found[claim.unit, claim.adversary, claim.amplified] = accountant.epsilon()
    return found


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("number", [1, 2])
def test_every_number_is_the_ledgers_or_the_plans(kept: Store, kind: str, number: int) -> None:
    run = kept.runs()[list(RUNS).index(kind)]
    row = kept.versions(run=run["id"])[number - 1]
    made = statements.of_version(kept, row)
    bodies = [leaf["body"] for leaf in kept.leaves()]
    plan, release = json.loads(run["plan"]), bodies[row["release"]]

    figures = expected(bodies, run["id"], row["release"])
    stated = {(r["unit"], r["adversary"], r["amplified"]): r["epsilon"] for r in made["guarantees"]}
    for place, value in figures.items():
        if place[0] == "client":
            assert stated[place] == pytest.approx(value, rel=1e-4), place
        else:  # The client level may imply less.
            assert stated[place] <= value * (1 + 1e-4), place
    assert {p for p, e in stated.items() if e != NOT_CLAIMED} == set(figures)
    for name, place in {
        "client": ("client", "public", True),
        "client_unamplified": ("client", "public", False),
        "record": ("record", "public", True),
        "record_local": ("record", "local", True),
    }.items():
        assert stated[place] == pytest.approx(release["epsilon"][name], rel=1e-4)
    for r in made["guarantees"]:
        assert r["delta"] == plan[f"{r['unit']}_delta"]
        if r["epsilon"] != NOT_CLAIMED:
            e = math.exp(r["epsilon"])
            assert r["guess_at_most"] == pytest.approx((e + r["delta"]) / (1 + e))
            assert r["cross_check"] >= r["epsilon"] * (1 - 1e-4)
            assert (r["accountant"], r["method"]) == (version(), r["method"])

    model = made["model"]
    assert (model["artifact"], model["run"], model["round"]) == (row["artifact"], run["id"], number)
    assert model["version"] == f"{row['name']}@{row['number']}"
    assert (model["release_leaf"], model["charge_leaf"]) == (row["release"], row["charge"])
    assert (f"(leaf {release['parent']})" in model["parent"]) == (number == 2)
    rounds = made["rounds"]
    assert (rounds["planned"], rounds["released"], rounds["charges"]) == (2, number, number)
    sampling = made["sampling"]
    assert sampling["population_size"] == plan["population"]
    assert sampling["rate"] == plan["sampling_rate"]
    assert sampling["expected_cohort"] == plan["population"] * plan["sampling_rate"]
    assert made["trust"]["minimum_survivors"] == plan["minimum_survivors"]
    assert made["mechanism"]["client"]["clip"] == plan["client"]["clip"]
    assert made["mechanism"]["noise_source"] == plan["noise_source"]
    assert made["relation"]["name"] == plan["relation"]
    assert made["provenance"] == {
        "plan": run["plan_digest"],
        "configuration": run["spec_digest"],
        "code": run["code"],
        "actor": bodies[1]["actor"],
    }
    checkpoint = signed(kept.checkpoint())
    assert made["checkpoint"]["size"] == checkpoint.size == len(bodies)
    assert made["checkpoint"]["root"] == checkpoint.root.hex()
    assert not any("other figures" in warning for warning in made["warnings"])


def test_shares_of_noise_are_described_on_their_lattice(kept: Store) -> None:
    run = kept.runs()[1]
    made = statements.of_version(kept, kept.versions(run=run["id"])[0])
    plan = read(json.loads(run["plan"]))
    assert plan.updates is not None
    assert plan.rules is not None
    lattice = made["mechanism"]["lattice"]
    assert lattice["l2_sensitivity"] == plan.updates.l2
    assert lattice["l1_sensitivity"] == plan.updates.l1
    assert lattice["variance"] == plan.updates.variance
    assert made["trust"]["colluding_clients"] == plan.rules.collusion
    assert "Skellam" in made["mechanism"]["noise_distribution"]
    assert "sum of the cohort" in made["mechanism"]["in_words"]
    assert "PROTECTS NOBODY" in made["warnings"][0]


def test_the_populations_total_is_that_of_all_its_runs(kept: Store) -> None:
    first = statements.of_version(kept, kept.versions()[0])
    last = statements.of_version(kept, kept.versions()[-1])
    assert [r["charges"] for r in first["composition"]["at_release"]["runs"]] == [1]
    for made in (first, last):
        assert [r["charges"] for r in made["composition"]["at_checkpoint"]["runs"]] == [2, 2]
    assert last["composition"]["at_release"] == last["composition"]["at_checkpoint"]
    assert not any("charged again" in warning for warning in last["warnings"])
    plans = [read(json.loads(run["plan"])) for run in kept.runs()]
    both = Accountant(plans[0].client_delta)
    for plan in plans:
        claim = next(c for c in plan.training() if c.adversary == "public" and c.amplified)
        assert claim.event is not None
        both.compose(claim.event.times(2))
    place = ("client", "public", True)
    rows = last["composition"]["at_release"]["rows"]
    row = next(r for r in rows if (r["unit"], r["adversary"], r["amplified"]) == place)
    assert row["epsilon"] == pytest.approx(both.epsilon())


def test_a_name_is_text_on_the_page(tmp_path: Path) -> None:
    simulate([*TINY, "rounds=1", "name='<b>x'"], task=make_tiny(), home=tmp_path)
    store = Store(Home(tmp_path))
    about = {"notes": "<script>alert(1)</script>"}
    page = statements.html(statements.of_version(store, store.versions()[0], about))
    store.close()
    assert "<b>x" not in page
    assert "<script" not in page
    assert "&lt;b&gt;x@1" in page
    assert "alert(1)" in stdlib_html.unescape(page)
    assert "http://" not in page
    assert "https://" not in page


def test_the_command_prints_markdown_json_and_a_page(place: Path, tmp_path: Path) -> None:
    about, page = tmp_path / "about.toml", tmp_path / "pages" / "s.html"
    about.write_text('organisation = "ACME"\nregistry_authors = ["A", "B"]\n')
    call = functools.partial(CliRunner().invoke, app, catch_exceptions=False)
    given = ["statement", "tiny@2", "--home", str(place), "--about", str(about)]
    text = call(given).stdout
    assert text.startswith("# Privacy statement of tiny@2")
    assert "| organisation | ACME | stated by the operator, not by the ledger |" in text
    done = call([*given, "--json", "--html", str(page)])
    entry = json.loads(done.stdout)
    assert entry["deployment"]["administrative"]["registry_authors"] == ["A", "B"]
    assert entry["deployment"]["basic"]["data_curators"] == ["ACME"]
    assert "Privacy statement of tiny@2" in page.read_text()
    with pytest.raises(StorageError, match="is there already"):
        call([*given, "--html", str(page)])


def test_json_goes_round(kept: Store) -> None:
    made = statements.of_version(kept, kept.versions()[-1])
    assert json.loads(json.dumps(made)) == made
    entry = registry_entry(made)
    assert json.loads(json.dumps(entry)) == entry
    assert registry_entry(json.loads(json.dumps(made))) == entry


def test_what_the_operator_says_is_read_from_toml_or_yaml(tmp_path: Path) -> None:
    yaml, toml = tmp_path / "a.yaml", tmp_path / "a.toml"
    yaml.write_text("product: P\ndata_curators: [A, B]\n")
    toml.write_text('product = "P"\ndata_curators = ["A", "B"]\n')
    assert statements.read_about(yaml) == statements.read_about(toml)
    assert statements.read_about(yaml)["data_curators"] == "A; B"
    for text in ("[1", "- a\n", "product: 3\n", "product: []\n", "product: [1]\n", "\xff: [\n"):
        yaml.write_text(text)
        with pytest.raises(ConfigError, match="about"):
            statements.read_about(yaml)
    with pytest.raises(StorageError, match="can't be read"):
        statements.read_about(tmp_path / "none.toml")


def test_a_version_is_found_as_elsewhere(kept: Store) -> None:
    row = ModelRegistry(kept.home, kept).find("tiny")
    assert statements.of_version(kept, row)["model"]["number"] == row["number"] == 4
