"""``tacit plan`` as a user meets it, and held to the run that it describes."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from tacit import simulate
from tacit.cli import plan
from tacit.configs.build import compose
from tacit.configs.planning import privacy_plan
from tacit.privacy.budget import planned
from tacit.privacy.errors import ConfigError, StorageError

KEYS = {
    "epsilon",
    "epsilon_unamplified",
    "noise_multiplier",
    "rounds",
    "cohort",
    "population",
    "delta",
    "sampling_rate",
    "accountant",
    "method",
    "cross_check",
    "rows",
    "alternatives",
}
ROW = {"unit", "adversary", "amplified", "epsilon", "delta", "method", "cross_check", "assumes"}
RUN = "--population 1000 --cohort 50 --rounds 40 --delta 1e-5 "
SHARES = RUN + "--mechanism skellam --dimension 5000 "
RECORDS = RUN + "--noise-multiplier 1 --record-sampling-rate 0.1 --record-steps 2 "

Json = Callable[[str], dict[str, Any]]


def told(line: str) -> None:
    """Runs the command as the root command does, without catching a mistake."""
    app = typer.Typer(add_completion=False)
    app.command("plan")(plan.plan)
    app.callback()(lambda: None)
    app(["plan", *line.split()], standalone_mode=False)


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Json:
    def answer(line: str) -> dict[str, Any]:
        told(line + " --json")
        found = json.loads(capsys.readouterr().out)
        assert isinstance(found, dict)
        return found

    return answer


def test_epsilon_of_a_plan(ask: Json) -> None:
    line = "--population 10000 --cohort 100 --rounds 1000 --noise-multiplier 1 --delta 1e-6"
    found = ask(line)
    assert set(found) >= KEYS
    assert found["solved"] == "epsilon"
    assert 2.125 <= found["epsilon"] <= 2.125 * 1.005
    assert found["epsilon"] < found["cross_check"]
    assert found["epsilon_unamplified"] > 100 * found["epsilon"]
    assert found["accountant"].startswith("dp-accounting 0.")
    assert (found["method"], found["sampling_rate"], found["delta"]) == ("pld", 0.01, 1e-6)
    for row in found["rows"]:
        assert set(row) >= ROW
        assert row["assumes"]
    public = [r for r in found["rows"] if (r["unit"], r["adversary"]) == ("client", "public")]
    rounded = {r["amplified"]: math.ceil(1000 * r["epsilon"]) / 1000 for r in public}
    assert rounded == {True: found["epsilon"], False: found["epsilon_unamplified"]}
    assert not any(name.startswith("record_") for name in found)


@pytest.mark.parametrize(
    ("left", "name", "least"),
    [
        ("--cohort 50 --rounds 40 --epsilon 2", "noise_multiplier", 0.3),
        ("--cohort 50 --noise-multiplier 1 --epsilon 2", "rounds", 2),
        ("--rounds 40 --noise-multiplier 1 --epsilon 2", "cohort", 2),
    ],
)
@pytest.mark.parametrize("mechanism", ["gaussian", "skellam --dimension 5000"])
def test_what_is_left_out_is_solved_for(
    ask: Json, left: str, name: str, least: float, mechanism: str
) -> None:
    found = ask(f"--population 1000 {left} --mechanism {mechanism}")
    assert found["solved"] == name
    assert found[name] > least
    assert 1.9 < found["epsilon"] <= 2


def test_delta_is_that_of_runs_unless_it_is_given(ask: Json) -> None:
    found = ask("--population 1000 --cohort 50 --rounds 4 --noise-multiplier 1")
    assert found["delta"] == pytest.approx(1000**-1.1, rel=1e-12)
    # Said nonetheless: left to itself, a run would take another one for records.
    assert f"delta={found['delta']}" in found["overrides"]


# The integer mechanisms


def test_integer_noise_is_figured_by_renyi_divergence(ask: Json) -> None:
    gaussian = ask(RUN + "--noise-multiplier 1")
    for law in ("skellam", "discrete_gaussian --bits 32"):
        found = ask(RUN + f"--noise-multiplier 1 --mechanism {law} --dimension 5000")
        assert found["method"] == "rdp"
        assert gaussian["epsilon"] < found["epsilon"] < 1.25 * gaussian["epsilon"]
        assert found["noise_deviation"] == pytest.approx(found["sensitivity"], rel=1e-6)
    assert found["bits"] == 32
    assert ask(SHARES + "--noise-multiplier 1 --bits 20")["bits"] == 20


def test_collusion_leaves_less_noise(ask: Json) -> None:
    line = SHARES + "--noise-multiplier 1 --minimum-survivors 20 --collusion "
    few, many = ask(line + "1"), ask(line + "6")
    rows = {
        (n, r["adversary"]): r["epsilon"]
        for n, found in ((1, few), (6, many))
        for r in found["rows"]
        if r["unit"] == "client" and not r["amplified"]
    }
    assert rows[1, "coordinator"] == rows[6, "coordinator"]
    assert rows[1, "coordinator"] < rows[1, "collusion"] < rows[6, "collusion"]
    assert (many["minimum_survivors"], many["collusion"]) == (20, 6)


def test_alternatives_that_no_run_could_have_say_so(
    ask: Json, capsys: pytest.CaptureFixture[str]
) -> None:
    line = SHARES.replace("50", "30") + "--noise-multiplier 1 --minimum-survivors 18"
    found = ask(line)
    half = next(a for a in found["alternatives"] if a["change"] == "cohort / 2")
    assert half["epsilon"] is None
    assert "minimum_survivors=18" in half["refused"]
    told(line)
    assert "no such plan: cohort=15 of clients=1000" in capsys.readouterr().out


# Records


def test_records_beside_clients(ask: Json) -> None:
    found = ask(RECORDS + "--record-noise-multiplier 0.8 --record-delta 1e-6")
    assert (found["record_noise_multiplier"], found["record_steps"]) == (0.8, 2)
    assert found["record_delta"] == 1e-6
    assert 2 < found["record_participations"] < 40
    assert found["record_epsilon"] < found["record_epsilon_unamplified"]
    assert found["record_epsilon_public"] <= found["record_epsilon"]
    without = ask(RUN + "--noise-multiplier 1")
    assert found["epsilon"] == without["epsilon"]


def test_the_records_noise_is_solved_for(ask: Json) -> None:
    found = ask(RECORDS + "--record-epsilon 4")
    assert 3.99 < found["record_epsilon"] <= 4
    assert found["record_delta"] == found["delta"]
    again = ask(RECORDS + f"--record-noise-multiplier {found['record_noise_multiplier']}")
    assert again["record_epsilon"] == found["record_epsilon"]


# The run it describes


@pytest.mark.parametrize(
    ("line", "dimension"),
    [
        (RUN + "--noise-multiplier 1.25", 1),
        ("--population 1000 --cohort 50.5 --rounds 40 --epsilon 3", 1),
        (SHARES + "--noise-multiplier 1.25 --collusion 3", 5000),
        (
            SHARES + "--epsilon 3 --minimum-survivors 20 --dropout 0.05 --bits 20",
            5000,
        ),
        (RECORDS + "--record-epsilon 4", 1),
    ],
)
def test_its_settings_make_a_run_of_the_same_plan(ask: Json, line: str, dimension: int) -> None:
    found = ask(line)
    spec = compose(["experiment=none", *found["overrides"]])
    rows = planned(privacy_plan(spec, 50, dimension)).table()
    assert rows == found["rows"]


def test_a_run_is_charged_what_was_planned(ask: Json, tmp_path: Path) -> None:
    line = "--population 100 --cohort 20 --rounds 3 --epsilon 6 "
    found = ask(line + "--record-sampling-rate 0.5 --record-epsilon 9 --record-steps 2")
    settings = [*found["overrides"], "model=pixels"]
    result = simulate(settings, home=str(tmp_path / "home"))
    for name in ("epsilon", "epsilon_unamplified"):
        charged = result.epsilon[name.replace("epsilon", "client")]
        assert charged is not None
        assert charged <= found[name] <= charged + 0.001
    assert result.epsilon["record_local"] == pytest.approx(found["record_epsilon"], rel=1e-6)
    assert result.epsilon["record"] == pytest.approx(found["record_epsilon_public"], rel=1e-6)


# What is shown


def test_what_is_printed_names_each_assumption(capsys: pytest.CaptureFixture[str]) -> None:
    told(SHARES.replace("--delta 1e-5", "") + "--epsilon 3 --collusion 2")
    said = capsys.readouterr().out
    for words in (
        "noise_multiplier = ",
        "which spends epsilon = 2.9",
        "dp-accounting 0.",
        "collusion",
        "[1] ",
        "keep its Poisson draw secret",
        "delta = population^-1.1",
        "alternatives",
        "cohort x 2",
        "noise x 1.25",
        "tacit simulate clients=1000 cohort=50 rounds=40 delta=",
        "secure.collusion=2",
    ):
        assert words in said, words


def test_records_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    told(RECORDS + "--record-noise-multiplier 2 --record-delta 1e-7")
    said = capsys.readouterr().out
    assert "epsilon = " in said
    assert "of 40 rounds" in said
    assert "A run states records at the delta of clients" in said


def test_a_plot_is_a_png(ask: Json, tmp_path: Path) -> None:
    path = tmp_path / "plan.png"
    found = ask(RUN + f"--noise-multiplier 1 --plot {path}")
    assert found["plot"] == str(path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(StorageError, match=r"plot=/nowhere/a\.png can't be written"):
        told(RUN + "--noise-multiplier 1 --plot /nowhere/a.png")


def test_numbers_are_finite_or_null(ask: Json) -> None:
    found = ask(SHARES + "--noise-multiplier 0.05")
    for row in found["rows"]:
        for name in ("epsilon", "cross_check"):
            assert row[name] is None or math.isfinite(row[name])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--population 100 --epsilon 1", "--noise-multiplier, --rounds, --cohort can't all"),
        ("--population 100 --epsilon 1 --cohort 5", "--noise-multiplier and --rounds can't both"),
        ("--population 100 --rounds 1 --cohort 5", "--epsilon and --noise-multiplier can't both"),
        (RUN + "--epsilon 1 --noise-multiplier 1", "leave nothing to solve for"),
        ("--population 100 --cohort 200 --rounds 1 --epsilon 1", "cohort=200"),
        ("--population 0 --cohort 1 --rounds 1 --epsilon 1", "population=0 must be at least 1"),
        (RUN + "--epsilon nan", "epsilon=nan"),
        (RUN + "--noise-multiplier 0", "noise_multiplier=0.0"),
        (RUN.replace("40", "0") + "--epsilon 1", "rounds=0 must be at least 1"),
        (RUN.replace("1e-5", "0") + "--epsilon 1", "delta=0.0 must be in"),
        (RUN.replace("1e-5", "1e-11") + "--epsilon 1", "delta=1e-11 must be at least 1e-10"),
        (RUN.replace("--rounds 40", "") + "--noise-multiplier 1 --epsilon 1e-5", "what rounds=1"),
        (RUN + "--epsilon 1 --mechanism laplace", "mechanism=laplace must be one of"),
        (RUN + "--epsilon 1 --mechanism skellam", "mechanism=skellam needs --dimension"),
        (RUN + "--epsilon 1 --collusion 2", "collusion=2: mechanism=gaussian adds no noise in"),
        (RUN + "--epsilon 1 --minimum-survivors 9", "minimum_survivors=9: mechanism=gaussian"),
        (RUN + "--epsilon 1 --dimension 9 --bits 16", "dimension=9, bits=16: mechanism=gauss"),
        (SHARES.replace("5000", "0") + "--epsilon 1", "dimension=0 must be at least 1"),
        (SHARES + "--epsilon 1 --bits 17", "secure.bits=17 must be"),
        (SHARES + "--epsilon 1 --dropout 0.5", "secure.dropout=0.5 must be in"),
        (SHARES + "--epsilon 1 --minimum-survivors 2", "minimum_survivors=2 must be at least 3"),
        (SHARES + "--epsilon 1 --minimum-survivors 9 --collusion 3", "must be more than 3 x"),
        (SHARES + "--epsilon 1 --minimum-survivors 60", "is below minimum_survivors=60 in"),
        (SHARES + "--epsilon 0.001 --bits 16", "don't fit words of 16 bits"),
        (RUN + "--epsilon 1 --record-epsilon 1", "record_epsilon=1 needs --record-sampling-rate"),
        (RUN + "--epsilon 1 --record-sampling-rate 0.1", "needs the noise"),
        (RECORDS + "--record-epsilon 1 --record-noise-multiplier 1", "are both given"),
        (RECORDS + "--record-epsilon 0", "record_epsilon=0.0 must be"),
        (RECORDS + "--record-noise-multiplier 0", "record_noise_multiplier=0.0 must be"),
        (RECORDS + "--record-epsilon 1 --record-delta 1", "record_delta=1.0 must be in"),
        (RECORDS.replace("steps 2", "steps 0") + "--record-epsilon 1", "local.steps=0"),
        (RECORDS.replace("0.1", "1.1") + "--record-epsilon 1", "sampling_rate=1.1 must be in"),
        (RUN + "--epsilon 1 --plot plan.pdf", "plot=plan.pdf must end in .png"),
    ],
)
def test_a_mistake_names_itself(line: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        told(line)
    assert words in error.value.message


def test_planning_needs_no_torch() -> None:
    import subprocess

    code = (
        "import sys; from tacit.cli.planned import Asked; import tacit.cli.plan; "
        "assert 'torch' not in sys.modules and 'flwr' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
