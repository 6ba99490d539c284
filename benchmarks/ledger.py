"""The ledger: a durable append, verifying a million leaves, a proof, epsilon after every round.

* append: CHARGE leaves of a real plan into a new home's database, one transaction each, with
  the tree's nodes and a signed checkpoint, fsynced; beside it the limit, a write and an fsync of
  as many bytes to a file of the same disk.
* verify: `tacit-verify`, a process of its own, on a bundle of runs of 2,000 rounds, half charges
  and half releases, made here and signed; its seconds are per million leaves.
* proof: that one leaf is in a home's database of as many leaves, made and checked.
* epsilon: what a run of 2,000 rounds spends on asking the budget before each round and stating
  every figure after it, for the default experiment and for `mechanism=central`; beside it the
  seconds that the run's other work takes, from a few of its rounds.

Wall-clock seconds, one thread. Run: python benchmarks/ledger.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from common import one_thread, show

from tacit.configs import build
from tacit.configs.planning import privacy_plan
from tacit.privacy import participation
from tacit.privacy.budget import planned
from tacit.privacy.ledger import Spending
from tacit.privacy.log import bundle, leaves, merkle, proofs
from tacit.privacy.log.notes import Checkpoint, SignerKey, sign_note
from tacit.privacy.plan import PrivacyPlan
from tacit.server import tables as t
from tacit.server.exports import prove
from tacit.server.home import Home
from tacit.server.store import Store

ROUNDS, RECORDS, DIMENSION = 2000, 6, 4810
APPENDS, PROOFS = 300, 200
_VERIFY = "from tacit.privacy.log.command import main; main()"
CENTRAL = ["mechanism=central", "aggregation=plain"]


def plan_of(*overrides: str) -> PrivacyPlan:
    """The plan of the default experiment over 2,000 rounds."""
    spec = build.compose([f"rounds={ROUNDS}", *overrides])
    return privacy_plan(spec, RECORDS, DIMENSION)


def charge(plan: PrivacyPlan, run: str, number: int) -> leaves.Body:
    """What a round's training is charged as."""
    return leaves.charge(
        run=run,
        round=number,
        attempt=0,
        purpose="train",
        plan_digest=plan.digest(),
        cohort="c" * 64,
        claims=plan.training(),
        participations=participation.bound(number, plan.sampling_rate, plan.population),
        noise_source=plan.noise_source,
    )


def append_seconds(folder: Path, plan: PrivacyPlan) -> tuple[float, float]:
    """Median seconds of an append, and of writing as much to a file."""
    store = Store(Home(folder / "append"))
    took, bare = [], []
    with (folder / "bare").open("wb") as file:
        for number in range(APPENDS):
            body = charge(plan, "r", number + 1)
            data = leaves.leaf_bytes(body)
            began = time.perf_counter()
            store.append(body, (b"s" * 32, [1, 2, 3]))
            took.append(time.perf_counter() - began)
            began = time.perf_counter()
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            bare.append(time.perf_counter() - began)
    store.close()
    return statistics.median(took), statistics.median(bare)


def log(plan: PrivacyPlan, signer: SignerKey, size: int) -> Iterator[str]:
    """A ledger of ``size`` leaves: runs of 2,000 released rounds, the last one shorter."""
    yield text(leaves.key(signer.name, str(signer.verifier), None, None))
    body, digest, index, number, version = plan.to_json(), plan.digest(), 1, 0, 0
    template = json.loads(leaves.leaf_bytes(charge(plan, "r", 1)))
    while index < size:
        number += 1
        run, parent = f"run-{number}", None
        yield text(
            {
                "kind": "PLAN",
                "run": run,
                "name": "m",
                "population": f"p{number}",
                "plan": digest,
                "body": body,
                "spec": "s" * 64,
                "code": "c",
                "actor": "benchmark",
            }
        )
        index += 1
        last = min(ROUNDS, (size - index) // 2)
        stated: dict[str, float | None] = {}
        for place in range(1, last + 1):
            if place == last or place & (place - 1) == 0:
                # Between those the verifier only asks that the figures rise.
                stated = figures(plan, place)
            bound = participation.bound(place, plan.sampling_rate, plan.population)
            charged = {**template, "run": run, "round": place, "participations": bound}
            yield text(charged)
            version += 1
            yield text(
                {
                    "kind": "RELEASE",
                    **{key: charged[key] for key in ("run", "round", "attempt", "purpose", "plan")},
                    "charge": index,
                    "metrics": {"accuracy": 0.9},
                    "evaluation": "public",
                    "artifact": f"{index:064x}",
                    "epsilon": stated,
                    "name": "m",
                    "number": version,
                    "parent": parent,
                    "state": "s" * 64,
                    "report": "r" * 64,
                }
            )
            parent, index = index + 1, index + 2
        if last < ROUNDS:
            return


@functools.cache
def figures(plan: PrivacyPlan, rounds: int) -> dict[str, float | None]:
    """What a release after so many rounds states."""
    return planned(replace(plan, rounds=rounds)).stated()


def text(body: dict[str, Any]) -> str:
    """A leaf with its time, as canonical JSON."""
    return _canonical({"at": "2026-01-01T00:00:00Z", **body})


def _canonical(value: dict[str, Any]) -> str:
    # As RFC 8785 for most of these leaves, a hundred times faster; the verifier checks it.
    if value.get("kind") == "PLAN":
        return leaves.leaf_bytes(value).decode()
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def verify_seconds(folder: Path, plan: PrivacyPlan, size: int) -> tuple[float, int]:
    """Seconds to verify a bundle, and its bytes a leaf."""
    signer, tree, path = SignerKey.generate("benchmark"), merkle.Tree(), folder / "bundle"
    texts = list(log(plan, signer, size))
    for leaf in texts:
        tree.append(merkle.leaf_hash(leaf.encode()))
    note = sign_note(Checkpoint(signer.name, tree.size, tree.root()).text(), signer)
    with path.open("wb") as file:
        bundle.write(file, note, texts, [])
    _fill(folder, texts, tree)
    del texts
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", _VERIFY, path, "--json"], capture_output=True)
    took = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"the benchmark's own log doesn't verify: {done.stdout[:500]!r}")
    return took / tree.size * 1e6, path.stat().st_size // tree.size


def _fill(folder: Path, texts: list[str], tree: merkle.Tree) -> None:
    """A home whose database holds these leaves, for proofs."""
    store = Store(Home(folder / "full"))
    with store.database.writing() as c:
        first = c.execute(sa.select(sa.func.count()).select_from(t.leaves)).scalar_one()
        for begin in range(first, len(texts), 10_000):
            rows = [
                {"index": i, "run": "r", "kind": "CHARGE", "body": texts[i]}
                | {"hash": tree.node(0, i).hex()}
                for i in range(begin, min(begin + 10_000, len(texts)))
            ]
            c.execute(t.leaves.insert(), rows)
        for level in range(1, len(texts).bit_length()):
            nodes = [
                {"level": level, "index": i, "hash": tree.node(level, i)}
                for i in range(len(texts) >> level)
            ]
            c.execute(t.nodes.insert(), nodes)
        note = sign_note(Checkpoint("full", tree.size, tree.root()).text(), store.signer)
        c.execute(t.checkpoints.insert().values(size=tree.size, note=note))
    store.close()


def proof_seconds(folder: Path, size: int) -> float:
    """Median seconds to make a proof from the database and to check it."""
    store, took = Store(Home(folder / "full")), []
    key, path = str(store.signer.verifier), folder / "proof"
    for place in range(PROOFS):
        began = time.perf_counter()
        path.write_text(json.dumps(prove(store, 2 + place * (size - 3) // PROOFS)))
        proofs.check(path, [key])
        took.append(time.perf_counter() - began)
    store.close()
    return statistics.median(took)


def epsilon_seconds(plan: PrivacyPlan) -> float:
    """Seconds for asking the budget and stating every figure, over 2,000 rounds."""
    spent = Spending({"client": plan.client_delta, "record": plan.record_delta})
    took = 0.0
    for number in range(1, ROUNDS + 1):
        body = charge(plan, "r", number)
        began = time.perf_counter()
        ahead = spent.copy()
        ahead.add(body)
        ahead.epsilon("client", "public", True)
        spent.add(body)
        spent.stated()
        took += time.perf_counter() - began
    return took


def round_seconds(folder: Path, overrides: list[str]) -> float:
    """Median seconds of a round of the default experiment."""
    from tacit import simulate

    found: list[float] = []
    home = folder / f"rounds-{len(overrides)}"
    simulate(["rounds=8", *overrides], home=home, progress=lambda r: found.append(r.seconds))
    return statistics.median(found[1:])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="50,000 leaves instead of a million")
    parser.add_argument("--json", action="store_true", help="one JSON object last on stdout")
    parser.add_argument("--folder", default=None, help="on which disk; a temporary one if left out")
    asked = parser.parse_args()
    one_thread()
    size = 50_000 if asked.quick else 1_000_000
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder, plan = Path(name), plan_of()
        append, bare = append_seconds(folder, plan)
        verify, leaf_bytes = verify_seconds(folder, plan, size)
        proof = proof_seconds(folder, size)
        secure, central = epsilon_seconds(plan), epsilon_seconds(plan_of(*CENTRAL))
        rounds = {n: ROUNDS * round_seconds(folder, o) for n, o in _RUNS.items()}
    result = {
        "append_seconds": append,
        "append_limit_seconds": bare,
        "verify_seconds_per_million": verify,
        "leaf_bytes": leaf_bytes,
        "leaves": size,
        "proof_seconds": proof,
        "epsilon_seconds_2000_rounds": secure,
        "epsilon_part_of_run": secure / rounds["default"],
        "epsilon_seconds_2000_rounds_central": central,
        "epsilon_part_of_run_central": central / rounds["central"],
    }
    rows = [
        ("durable append, s", append, f"{append / bare:.1f} x write + fsync", "<= 0.010"),
        ("verify a million leaves, s", verify, f"{leaf_bytes} bytes a leaf", "< 60"),
        ("proof, made and checked, s", proof, f"of {size} leaves", "< 0.005"),
        ("epsilon, 2,000 rounds, s", secure, f"{result['epsilon_part_of_run']:.2%}", "< 1%"),
        ("the same, central, s", central, f"{result['epsilon_part_of_run_central']:.2%}", "< 1%"),
    ]
    show("ledger", ["", "measured", "beside", "aim"], rows, result, asked.json)


_RUNS: dict[str, list[str]] = {"default": [], "central": CENTRAL}


if __name__ == "__main__":
    main()
