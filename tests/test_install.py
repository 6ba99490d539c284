"""What each extra brings is what its command needs: a reviewer neither torch nor flwr, a device
neither of them nor scipy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import walled
from tiny import TINY, make_tiny

from tacit import simulate
from tacit.server.exports import export
from tacit.server.home import Home
from tacit.server.store import Store

ROOT = Path(__file__).parents[1]
LEFT_OUT = (".*", "build", "*.egg-info", "__pycache__", "tests", "docs", "benchmarks")


def ran(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=500,
        **options,  # type: ignore[call-overload]
    )


def installed(tmp_path: Path, extra: str) -> Path:
    """Where the commands are of an environment with tacit and an extra."""
    source, place = tmp_path / "source", tmp_path / "venv"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*LEFT_OUT))
    assert ran(sys.executable, "-m", "venv", place).returncode == 0
    pip = [place / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install"]
    done = ran(*pip, "--quiet", "--constraint", ROOT / "constraints.txt", f"{source}[{extra}]")
    assert done.returncode == 0, done.stderr
    return place / "bin"


@pytest.mark.slow
def test_a_devices_install_has_the_agent_and_little_else(tmp_path: Path) -> None:
    place = installed(tmp_path, "edge")
    for absent in ("torch", "flwr", "scipy", "dp_accounting", "sqlalchemy", "typer"):
        assert ran(place / "python", "-c", f"import {absent}").returncode == 1
    loads = "from tacit.client.edge import agent, assembly, enrol, steps"
    done = ran(place / "python", "-c", loads, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = ran(place / "tacit-edge", "check", "--home", tmp_path / "device", cwd=tmp_path)
    assert done.returncode == 1
    assert "isn't enrolled" in done.stdout
    done = ran(place / "tacit-verify", "nothing", cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install 'tacit[verify]'" in done.stderr


@pytest.mark.slow
def test_a_reviewers_install_verifies_a_bundle_without_the_rest(tmp_path: Path) -> None:
    simulate(TINY, task=make_tiny(), home=tmp_path / "home")
    store = Store(Home(tmp_path / "home"))
    made = export(store, str(tmp_path / "ledger.tacit"), "all")
    place = installed(tmp_path, "verify")
    python = place / "python"
    for absent in ("torch", "flwr", "opacus", "sqlalchemy", "typer"):
        assert ran(python, "-c", f"import {absent}").returncode == 1
    verify = [place / "tacit-verify", tmp_path / "ledger.tacit"]
    done = ran(*verify, "--key", made["key"], "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (run,) = report["runs"]
    ours = store.claims(run["run"])
    assert [row["epsilon"] for row in run["rows"]] == [row["epsilon"] for row in ours]
    # The whole command says what is missing.
    done = ran(place / "tacit", "ledger", "show", cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install 'tacit[all]'" in done.stderr


def bare(allowed: frozenset[str], *command: str) -> subprocess.CompletedProcess[str]:
    return ran(sys.executable, *walled.command(allowed, *command))


def test_the_base_alone_says_what_each_command_lacks() -> None:
    done = bare(walled.BASE, "tacit.privacy.log.entry:main", "--help")
    assert done.returncode == 2
    assert "pip install 'tacit[verify]'" in done.stderr
    done = bare(walled.BASE, "tacit.client.edge.command:main", "run", "--home", "nowhere")
    assert done.returncode == 2
    assert "pip install 'tacit[edge]'" in done.stderr
    done = bare(walled.BASE, "tacit.cli:main", "--help")
    assert done.returncode == 2
    assert "pip install 'tacit[all]'" in done.stderr


def test_verify_needs_no_more_than_its_extra() -> None:
    done = bare(walled.VERIFY, "tacit.privacy.log.entry:main", "--help")
    assert done.returncode == 0, done.stderr
    assert "BUNDLE" in done.stdout


def test_an_agent_needs_no_more_than_its_extra() -> None:
    # A whole round of one is in tests/client/edge/test_command.py.
    done = bare(walled.EDGE, "tacit.client.edge.command:main", "run", "--home", "nowhere")
    assert done.returncode == 2
    assert "enrol first" in done.stderr
