"""A reviewer can run `tacit.privacy` without the training stack."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import importlib, json, pkgutil, sys
import tacit.privacy
names = [m.name for m in pkgutil.walk_packages(tacit.privacy.__path__, "tacit.privacy.")]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, sorted({m.partition(".")[0] for m in sys.modules})]))
"""


def test_no_module_of_privacy_brings_in_torch_flower_opacus_or_a_database() -> None:
    # In a process of its own: this one may have imported torch for another test.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=120
    )
    names, loaded = json.loads(done.stdout)
    assert {f"tacit.privacy.{m}" for m in ("plan", "accountant", "ledger", "messages")} <= set(
        names
    )
    assert len(names) >= 11
    assert "dp_accounting" in loaded, "the script saw no imports at all"
    assert not {"torch", "flwr", "opacus", "sqlalchemy", "ray"} & set(loaded)
