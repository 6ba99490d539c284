"""Tasks of one's own, as packages outside tacit: what docs/bring_your_own.md shows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TACIT = [sys.executable, "-c", "from tacit.cli import main; main()", "simulate"]
DOCS = Path(__file__).parents[1] / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))


def simulate(folder: Path, *settings: str) -> dict[str, object]:
    """Runs the command line where tacit's source isn't on the path."""
    done = subprocess.run(
        [*TACIT, *settings, "experiment=none", "--json", "--home", str(folder / "home")],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_under_forty_lines_and_stands_in_the_docs(example: Path) -> None:
    text = example.read_text()
    assert len(text.splitlines()) < 40
    assert text.strip() in (DOCS / "bring_your_own.md").read_text()


def test_tabular_rows_are_learnt(tmp_path: Path) -> None:
    shutil.copy(DOCS / "examples" / "tabular.py", tmp_path / "hospitals.py")
    result = simulate(
        tmp_path,
        "task=hospitals:task",
        "clients=40",
        "cohort=40",
        "rounds=30",
        "privacy.client=none",
        "privacy.record.noise_multiplier=0.3",
        "local.learning_rate=1",
    )
    assert result["metrics"]["accuracy"] > 0.85
    assert result["epsilon"]["record"] is not None
    assert str(result["model"]).startswith("breast_cancer@")


@pytest.mark.slow
def test_token_sequences_are_learnt(tmp_path: Path) -> None:
    shutil.copy(DOCS / "examples" / "tokens.py", tmp_path / "manual.py")
    settings = [
        "task=manual:task",
        "clients=50",
        "cohort=10",
        # Two steps and no client-level clip: nothing bounds an update that could be masked.
        "mechanism=central",
        "aggregation=plain",
        "evaluation=federated",
        "evaluation.noise_multiplier=0.1",
        "privacy.client=none",
        "privacy.record.noise_multiplier=0.01",
        "local.steps=2",
        "local.learning_rate=4",
        "optimizer=fedavg",
    ]
    first = simulate(tmp_path, *settings, "rounds=1")
    last = simulate(tmp_path, *settings, "rounds=12")
    # One character in seven of the manual is a space; below that nothing was learnt.
    assert last["metrics"]["accuracy"] > max(0.13, first["metrics"]["accuracy"])
