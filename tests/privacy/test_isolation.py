"""A reviewer can run `tacit.privacy` without the training stack, a device without scipy either."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import rfc8785

from tacit.privacy.discrete.lattice import Lattice
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.secagg.cohort import Rules
from tacit.privacy.units import ClientUnit, RecordUnit

SUPPORT = Path(__file__).parents[1] / "support"

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


# What a client computes with: a plan read, its claims, and whole sessions over both graphs.
CLIENT = """
import importlib, json, sys, sysconfig
from importlib.abc import MetaPathFinder
from pathlib import Path

ALLOWED = {"numpy", "cryptography", "_cffi_backend", "rfc8785", "tacit"}
PLACES = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}

class Wall(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        theirs = any(list(place.glob(top)) + list(place.glob(top + ".*")) for place in PLACES)
        if theirs and top not in ALLOWED and not top.startswith("__editable__"):
            raise ModuleNotFoundError(f"{name} isn't on a device", name=name)

sys.meta_path.insert(0, Wall())
names = "plan plans claims events units mechanisms messages noise"
discrete = "encoder lattice layers pmf rotation table"
secagg = "client cohort directory graph keys masks messages server vault words"
for where, some in (("", names), ("discrete.", discrete), ("secagg.", secagg)):
    for name in some.split():
        importlib.import_module(f"tacit.privacy.{where}{name}")
from masking import Session
Session(5, noisy=True).until("done").finish()
from tacit.privacy.secagg.cohort import Rules
assert Rules(200, 400, 0.1, 15).choice(400).degree < 399
from tacit.privacy import plans
plan = plans.read(json.loads(sys.argv[1]))
assert plan.digest() == sys.argv[2]
assert len(plan.training()) > 1
try:
    import scipy
except ModuleNotFoundError:
    print("walled")
"""


def test_what_a_client_uses_runs_on_numpy_cryptography_and_rfc8785() -> None:
    rules = Rules(4, 12, 0.1, 1)
    lattice = Lattice(
        dimension=8, rotated=True, bits=32, norm=100.0, conditional=True, variance=1e5
    )
    plan = PrivacyPlan(
        population=20,
        sampling_rate=0.5,
        rounds=3,
        client=ClientUnit(1.0, 1.0),
        record=RecordUnit(1.0, 1.0, 0.1, 2, 10.0),
        client_delta=1e-5,
        record_delta=1e-5,
        minimum_survivors=4,
        noise_source="os-csprng",
        mechanism="skellam",
        aggregation="secure",
        rules=rules,
        updates=lattice,
        relation="zero-out",
    )
    body = rfc8785.dumps(plan.to_json()).decode()
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, body, plan.digest()],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["walled"]
