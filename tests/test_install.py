"""What each extra brings is what its command needs: a reviewer neither torch nor flwr, a device
neither of them nor scipy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
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


@pytest.mark.slow
def test_a_reviewers_install_verifies_a_bundle_without_the_rest(tmp_path: Path) -> None:
    simulate(TINY, task=make_tiny(), home=tmp_path / "home")
    store = Store(Home(tmp_path / "home"))
    made = export(store, str(tmp_path / "ledger.tacit"), "all")
    source, place = tmp_path / "source", tmp_path / "venv"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*LEFT_OUT))
    assert ran(sys.executable, "-m", "venv", place).returncode == 0
    python = place / "bin" / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    done = ran(*pip, "--constraint", ROOT / "constraints.txt", f"{source}[verify]")
    assert done.returncode == 0, done.stderr
    for absent in ("torch", "flwr", "opacus", "sqlalchemy", "typer"):
        assert ran(python, "-c", f"import {absent}").returncode == 1
    verify = [place / "bin" / "tacit-verify", tmp_path / "ledger.tacit"]
    done = ran(*verify, "--key", made["key"], "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (run,) = report["runs"]
    ours = store.claims(run["run"])
    assert [row["epsilon"] for row in run["rows"]] == [row["epsilon"] for row in ours]
    # The whole command says what is missing.
    done = ran(place / "bin" / "tacit", "ledger", "show", cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install 'tacit[all]'" in done.stderr


# Imports as on a machine that has only so much of what is installed here.
WALL = """
import sys, sysconfig
from importlib.abc import MetaPathFinder
from pathlib import Path

ALLOWED = set(sys.argv[1].split(","))
PLACES = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}

class Wall(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        theirs = any(list(place.glob(top)) + list(place.glob(top + ".*")) for place in PLACES)
        if theirs and top not in ALLOWED and not top.startswith("__editable__"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Wall())
sys.argv = sys.argv[2:]
import importlib
module, _, name = sys.argv[0].partition(":")
getattr(importlib.import_module(module), name)()
"""
BASE = {"tacit", "cryptography", "_cffi_backend", "numpy", "rfc8785"}
VERIFY = {"absl", "attr", "attrs", "dm_tree", "dp_accounting", "mpmath", "scipy", "tree", "wrapt"}
EDGE = {"google", "grpc", "onnxruntime", "flatbuffers", "packaging", "typing_extensions"}


def walled(allowed: set[str], *command: str) -> subprocess.CompletedProcess[str]:
    return ran(sys.executable, "-c", WALL, ",".join(sorted(allowed)), *command)


def test_the_base_alone_says_what_each_command_lacks() -> None:
    done = walled(BASE, "tacit.privacy.log.entry:main", "--help")
    assert done.returncode == 2
    assert "pip install 'tacit[verify]'" in done.stderr
    done = walled(BASE, "tacit.cli:main", "--help")
    assert done.returncode == 2
    assert "pip install 'tacit[all]'" in done.stderr


def test_verify_needs_no_more_than_its_extra() -> None:
    done = walled(BASE | VERIFY, "tacit.privacy.log.entry:main", "--help")
    assert done.returncode == 0, done.stderr
    assert "BUNDLE" in done.stdout
