"""The command line as a user meets it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tacit.cli import main
from tacit.server.home import Home
from tacit.server.store import Store

FAST = ["clients=100", "cohort=20", "rounds=2", "model=pixels"]
KEYS = {
    "run",
    "rounds",
    "model_version",
    "artifact_sha256",
    "metrics",
    "epsilon",
    "delta",
    "client_updates_per_second",
    "wall_seconds",
}


def tacit(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from tacit.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )


def here(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit status of a command run in this process, which has all of it imported."""
    monkeypatch.setattr(sys, "argv", ["tacit", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """A home with one run in it, and what the run printed."""
    home = tmp_path_factory.mktemp("cli") / "home"
    done = tacit("simulate", *FAST, "--json", "--home", str(home))
    assert done.returncode == 0, done.stderr
    return home, json.loads(done.stdout.splitlines()[-1])


def test_json_is_last_on_stdout_with_the_promised_keys(
    place: tuple[Path, dict[str, object]],
) -> None:
    _, result = place
    assert set(result) >= KEYS
    assert {"client", "client_unamplified", "record"} <= set(result["epsilon"])
    assert 0 <= result["metrics"]["accuracy"] <= 1
    assert result["rounds"] == 2
    assert result["epsilon"]["client"] < result["epsilon"]["client_unamplified"]


def test_models_are_listed_shown_and_exported(place: tuple[Path, dict[str, object]]) -> None:
    home, result = place
    at = ["--home", str(home)]
    rows = json.loads(tacit("models", "list", "--json", *at).stdout)
    assert [row["number"] for row in rows] == [1, 2]
    shown = json.loads(tacit("models", "show", "digits@2", "--json", *at).stdout)
    assert shown["artifact"] == result["artifact_sha256"]
    assert shown["parent"] == rows[0]["id"]
    for field in ("plan_digest", "spec_digest", "code", "charge", "release"):
        assert shown[field] not in (None, "")
    out = home / "out" / "model.safetensors"
    done = tacit("models", "export", "digits", "--to", str(out), *at)
    assert done.returncode == 0
    assert hashlib.sha256(out.read_bytes()).hexdigest() == result["artifact_sha256"]
    again = tacit("models", "export", "digits", "--to", str(out), *at)
    assert again.returncode == 2
    assert "there already" in again.stderr


def test_the_ledger_is_shown_and_adds_up(place: tuple[Path, dict[str, object]]) -> None:
    home, result = place
    shown = json.loads(tacit("ledger", "show", "--json", "--home", str(home)).stdout)
    kinds = [leaf["kind"] for leaf in shown["leaves"]]
    assert kinds == ["KEY", "PLAN", "STATUS", *["CHARGE", "RELEASE"] * 2, "STATUS"]
    (table,) = shown["totals"].values()
    (row,) = [
        r for r in table if r["unit"] == "client" and r["adversary"] == "public" and r["amplified"]
    ]
    assert row["epsilon"] == pytest.approx(result["epsilon"]["client"], rel=1e-6)
    text = tacit("ledger", "show", "last", "--home", str(home))
    assert text.returncode == 0
    assert "CHARGE" in text.stdout


def test_a_finished_run_has_nothing_to_resume(place: tuple[Path, dict[str, object]]) -> None:
    home, _ = place
    done = tacit("simulate", "--resume", "last", "--home", str(home))
    assert done.returncode == 2
    assert "nothing to resume" in done.stderr


def test_a_corrupted_artifact_is_an_error(
    place: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    home = ["--home", str(shutil.copytree(place[0], tmp_path / "home"))]
    artifact = next((tmp_path / "home" / "artifacts").rglob("*.safetensors"))
    data = bytearray(artifact.read_bytes())
    data[-1] ^= 1
    artifact.write_bytes(bytes(data))
    done = tacit("models", "show", artifact.stem[:12], *home)
    assert done.returncode == 2
    assert "corrupted" in done.stderr


def test_a_sweep_prints_one_table_and_one_report(tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    done = tacit("simulate", "--multirun", *FAST[:-1], "seed=0,1", "--json", "--home", home)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert len(printed["runs"]) == 2
    assert Path(printed["report"]).is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cohrt=3"], ["cohrt", "cohort"]),
        (["cohort=0"], ["cohort=0", "(0, clients=300]"]),
        (["cohort=301"], ["cohort=301"]),
        (["rounds=-1"], ["rounds=-1", "at least 1"]),
        (["rounds=many"], ["rounds=many", "whole number"]),
        (["experiment=mnist"], ["experiment=mnist", "digits"]),
        (["task=fashion_mnst"], ["fashion_mnst", "fashion_mnist"]),
        (["task=nowhere:task"], ["nowhere"]),
        (["partition=random"], ["partition=random", "dirichlet"]),
        (["partition=natural"], ["column", "client"]),
        (["mechanism=skellamm"], ["mechanism=skellamm", "central"]),
        (["aggregation=none"], ["aggregation=none", "plain"]),
        (["delta=1"], ["delta=1"]),
        (["privacy.client.clip=0"], ["privacy.client.clip=0"]),
        (["privacy.client.noise_multiplier=-1"], ["noise_multiplier=-1"]),
        (["privacy.record.clip=nan"], ["privacy.record.clip=nan"]),
        (["privacy.record.sampling_rate=1.5"], ["privacy.record.sampling_rate=1.5", "(0, 1]"]),
        (["budget.epsilon=0"], ["budget.epsilon=0"]),
        (["clients=2000"], ["clients=2000"]),
        (["model=resnet"], ["model=resnet", "pixels"]),
        (["experiment=fashion_mnist", "data.root=/nowhere"], ["/nowhere", "apt-get", "data.hub"]),
        (["rounds"], ["'rounds'", "key=value"]),
        (["--resume", "last"], ["no run"]),
        (["--resume", "last", "rounds=1"], ["--resume takes no settings"]),
        (["budget.epsilon=0.01"], ["budget.epsilon=0.01", "exceeded"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["simulate", *arguments, "--home", str(tmp_path / "home")]
    assert here(command, monkeypatch) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if line.startswith("tacit: ")]) == 1
    for word in words:
        assert word in said


def test_a_mistake_in_a_process_of_its_own(tmp_path: Path) -> None:
    done = tacit("simulate", "cohort=0", "--home", str(tmp_path / "home"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("tacit: cohort=0 must be in")


def test_looking_makes_no_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["models", "list"], ["ledger", "show"], ["runs", "list"]):
        assert here([*command, "--home", str(tmp_path / "home")], monkeypatch) == 2
        assert "no tacit database" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


def test_state_goes_to_dot_tacit_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TACIT_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert here(["simulate", *FAST, "rounds=1"], monkeypatch) == 0
    assert (tmp_path / ".tacit" / "tacit.db").is_file()


@pytest.mark.parametrize(
    ("package", "line"),
    [("uvicorn", ["api"]), ("onnxruntime", ["score", "tiny", "--input", "x", "--to", "y"])],
)
def test_an_extra_that_is_missing_is_named_with_what_installs_it(
    package: str, line: list[str], tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        f"sys.modules[{package!r}] = None\n"
        "from tacit.cli import main\n"
        f"sys.argv = ['tacit', *{line!r}]\n"
        "main()\n"
    )
    Store(Home(tmp_path / "home")).close()
    (tmp_path / "x").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TACIT_HOME": str(tmp_path / "home")},
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"tacit: {package} isn't installed",
        "       pip install 'tacit[all,api]'",
    ]
