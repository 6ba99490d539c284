"""The simulation engine: client updates a second, beside torch's limit and other frameworks.

Two workloads, both Fashion-MNIST, the network of Opacus's tutorial (26,010 parameters) and one
local epoch of record-level DP-SGD (clip 1, noise multiplier 1): W1, 1,000 clients of 60 examples,
cohort 50, three steps of 20; W2, 10,000 clients of 6, cohort 500, one step of 6.

Every side is a process of its own on the same two cores, one after the other, one thread for each
process that computes:

* tacit, each of `MODES`;
* the limit: torch without privacy, all examples of a cohort's step as one batch;
* with --peers: Flower on Ray with Opacus on each client, pfl with Opacus on each client, pfl with
  its own update-level DP and no DP-SGD (`make peers` installs them; `peers/` has their scripts).

updates/s is over the rounds after the first; start-up is from the start of the process to the end
of the first round, less a later round; memory is the largest sum of proportional set sizes of the
process and all it started. The seed is 0 on every side. Asking --growth or --long measures those
alone: time against cohort and population, and 10,000 rounds.

Run: python benchmarks/engine.py [--quick] [--peers] [--growth] [--long] [--json]
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import one_thread, show
from peers.measured import Found, SideError, call, measure
from workloads import SEED, WORKLOADS, Workload, write

CORES = 2
# Each of tacit's modes: engine and workers.
MODES: dict[str, tuple[str, int | None]] = {
    "serial, 1 worker": ("serial", 1),
    "serial, 2 workers": ("serial", 2),
    "cohort, 1 worker": ("cohort", 1),
    "cohort, 2 workers": ("cohort", 2),
    "fused, 1 worker": ("fused", 1),
    "fused, 2 workers": ("fused", 2),
    "auto": ("auto", None),
}
SHOWN = {"W1": tuple(MODES), "W2": tuple(name for name in MODES if "1 worker" not in name)}
QUICK = ("cohort, 2 workers", "auto")
# What --peers measures: environment, script, what of it, rounds of W1 and W2.
PEERS = {
    "Flower + Ray, Opacus": ("flower", "flower_ray.py", "", {"W1": 12, "W2": 3}),
    "pfl, Opacus": ("pfl", "pfl_runs.py", "opacus", {"W1": 14, "W2": 7}),
    "pfl, update-level DP": ("pfl", "pfl_runs.py", "update", {"W1": 25, "W2": 9}),
}
COHORTS, POPULATIONS = (25, 50, 100, 200), (1_000, 10_000, 100_000, 1_000_000)
LONG, TENTH = 10_000, 1_000
TINY = Workload("tiny", clients=100, examples=2, cohort=5, steps=1)
# On top of the DP of records that every workload has.
CLIENTS = ["privacy/client=flat", "privacy.client.noise_multiplier=1.0"]
LIMIT = "one batch"
HERE = Path(__file__).resolve().parent
NOTES = (
    "tacit draws cohorts and batches by Poisson sampling (updates are counted); Flower's and pfl's "
    "cohorts have fixed size, their batches with Opacus are Poisson too.",
    "tacit also charges, states epsilon and keeps a durable version for every round; the peers do "
    "none of it, and are spared Flower's epsilon per client and pfl's evaluation.",
    "pfl's update-level DP is another, cheaper guarantee: no per-example gradients.",
    "The limit trains nobody: no clients, no per-example gradients, no noise, no optimizer. In "
    "pieces that fit the caches torch is faster than in one batch; both are shown.",
    "No side decodes images: they are mapped from one float32 file.",
)


class Bench:
    """Measures sides, and keeps what couldn't be measured.

    Args:
        data: folder of the examples.
        seconds: for which rounds of tacit's are measured.

    Attributes:
        failed: what went wrong, for each side that did.
    """

    def __init__(self, data: str, seconds: float) -> None:
        self._data, self._seconds, self.failed = data, seconds, list[str]()

    def tacit(self, mode: str, work: Workload, **more: Any) -> Found | None:
        """One of tacit's modes."""
        engine, workers = MODES[mode]
        asked = {
            "workload": dataclasses.asdict(work),
            "data": self._data,
            "overrides": [f"engine={engine}", *more.pop("settings", [])],
            "workers": workers,
            "seconds": self._seconds,
            "rounds": 5_000,
        }
        return self._measure(f"{work.name} {mode}", sys.executable, "tacit_run.py", asked | more)

    def peer(self, name: str, work: Workload) -> Found | None:
        """One of the peers."""
        environment, script, what, rounds = PEERS[name]
        python = HERE.parent / "build" / "peers" / environment / "bin" / "python"
        if not python.exists():
            self.failed.append(f"{name}: {python} isn't there: make peers")
            return None
        asked = {
            "workload": dataclasses.asdict(work),
            "data": self._data,
            "what": what,
            "rounds": rounds[work.name],
            "cores": CORES,
        }
        return self._measure(f"{work.name} {name}", python, script, asked)

    def limit(self, work: Workload, seconds: float) -> dict[str, float]:
        """Updates a second of torch alone, by variant; the faster of processes and threads."""
        asked = {
            "workload": dataclasses.asdict(work),
            "data": self._data,
            "cores": CORES,
            "seconds": seconds,
        }
        said, _ = call(sys.executable, "torch_limit.py", asked)
        return {variant: max(rates.values()) for variant, rates in said.items()}

    def _measure(
        self, name: str, python: str | Path, script: str, asked: dict[str, Any]
    ) -> Found | None:
        print(f"measuring {name}", file=sys.stderr)
        try:
            return measure(python, script, asked)
        except SideError as error:
            self.failed.append(f"{name}: {error}")
            return None


def compare(bench: Bench, work: Workload, quick: bool, peers: bool) -> dict[str, Any]:
    """All sides of one workload, and tacit's ratios to them."""
    limit = bench.limit(work, 1.2 if quick else 3.0)
    modes = [name for name in MODES if name in (QUICK if quick else SHOWN[work.name])]
    tacit = {name: bench.tacit(name, work) for name in modes}
    others = {name: bench.peer(name, work) for name in PEERS} if peers else {}
    best = tacit["auto"]

    def ratio(beside: float | None) -> float | None:
        return best.updates_per_second / beside if best and beside else None

    rates = {name: found and found.updates_per_second for name, found in others.items()}
    flower, opacus, update = (rates.get(name) for name in PEERS)
    return {
        "updates_per_second": best and best.updates_per_second,
        "ratio_to_limit": ratio(limit[LIMIT]),
        "ratio_to_flower": ratio(flower),
        "ratio_to_pfl": ratio(opacus),
        "start_up_seconds": best and best.start_up_seconds,
        "peak_mb": best and best.peak_mb,
        "ratio_to_fastest_limit": ratio(max(limit.values())),
        "ratio_to_pfl_update": ratio(update),
        "limit": limit,
        "tacit": {name: found and dataclasses.asdict(found) for name, found in tacit.items()},
        "peers": {name: found and dataclasses.asdict(found) for name, found in others.items()},
    }


def rows(name: str, result: dict[str, Any]) -> list[tuple[Any, ...]]:
    """A workload's lines of the table."""
    base = result["limit"][LIMIT]
    lines: list[tuple[Any, ...]] = [
        (f"{name} torch, {variant}", rate, rate / base, "", "")
        for variant, rate in result["limit"].items()
    ]
    sides = {f"tacit {mode}": found for mode, found in result["tacit"].items()} | result["peers"]
    for side, found in sides.items():
        if found is None:
            lines.append((f"{name} {side}", "failed", "", "", ""))
            continue
        rate = found["updates_per_second"]
        lines.append(
            (f"{name} {side}", rate, rate / base, found["start_up_seconds"], found["peak_mb"])
        )
    return lines


def growth(bench: Bench) -> tuple[list[tuple[Any, ...]], dict[str, Any]]:
    """Time per round against the cohort and the population, in mode "auto".

    Against the population with ten parameters too, beside which nothing else can hide, and then
    with DP of the clients: the figures that a round states take more time at lower rates.
    """
    base, small = WORKLOADS["W1"], dataclasses.replace(TINY, cohort=50)
    points: dict[str, tuple[Workload, dict[str, Any]]] = {
        f"cohort={n}": (dataclasses.replace(base, cohort=n), {}) for n in COHORTS
    }
    for n in POPULATIONS:
        points[f"clients={n}"] = dataclasses.replace(base, clients=n), {}
        few = dataclasses.replace(small, clients=n)
        name = f"clients={n}, ten parameters"
        points[name] = few, {"tiny": True}
        points[f"{name}, DP of clients"] = few, {"tiny": True, "settings": CLIENTS}
    lines: list[tuple[Any, ...]] = []
    results: dict[str, Any] = {}
    for name, (work, more) in points.items():
        found = bench.tacit("auto", dataclasses.replace(work, name=name), **more)
        results[name] = found and dataclasses.asdict(found)
        if found is None:
            lines.append((name, "failed", "", "", ""))
            continue
        # Cohorts are drawn, so a round has more or fewer clients than expected.
        each = 1000 / found.updates_per_second
        lines.append((name, found.seconds_per_round, each, found.start_up_seconds, found.peak_mb))
    return lines, results


def long_run(bench: Bench) -> dict[str, Any] | None:
    """Memory and pace of 10,000 rounds of ten parameters."""
    found = bench.tacit(
        "auto", TINY, tiny=True, rounds=LONG, memory_at=[TENTH, LONG], seconds=1e9, timeout=3600
    )
    return found and {
        "rounds": found.rounds,
        "seconds_per_round_first_tenth": found.pace[0],
        "seconds_per_round_last_tenth": found.pace[1],
        "last_tenth_over_first": found.pace[1] / found.pace[0],
        "mb_at_a_tenth": found.memory[str(TENTH)],
        "mb_at_the_end": found.memory[str(LONG)],
        "peak_mb": found.peak_mb,
    }


def end(bench: Bench) -> None:
    """Says on stderr what failed, after everything else, and exits accordingly."""
    for line in bench.failed:
        print(f"failed: {line}", file=sys.stderr)
    if bench.failed:
        raise SystemExit(1)


def main() -> None:
    """Measures what was asked for and prints tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="W1 alone, few modes, under 50 s")
    parser.add_argument("--peers", action="store_true", help="Flower and pfl too; some minutes")
    parser.add_argument("--growth", action="store_true", help="against cohort and population")
    parser.add_argument("--long", action="store_true", help="10,000 rounds")
    asked = parser.parse_args()
    one_thread()
    # Whatever the machine has, every side gets the same two.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with tempfile.TemporaryDirectory() as data:
        write(Path(data))
        bench = Bench(data, 4.0 if asked.quick else 6.0)
        if asked.growth or asked.long:
            grown(bench, asked)
        else:
            compared(bench, asked)
    end(bench)


def compared(bench: Bench, asked: argparse.Namespace) -> None:
    """The sides beside each other."""
    names = ["W1"] if asked.quick else list(WORKLOADS)
    found = {name: compare(bench, WORKLOADS[name], asked.quick, asked.peers) for name in names}
    for note in NOTES:
        print(f"* {note}")
    settings = {"seed": SEED, "cores": CORES, "modes": MODES, "notes": NOTES}
    show(
        f"{CORES} cores, one thread a process, seed {SEED}",
        ["side", "updates/s", "of the limit", "start-up, s", "peak MB"],
        [line for name in names for line in rows(name, found[name])],
        {**found["W1"], **({"W2": found["W2"]} if "W2" in found else {}), **settings}
        | {"failed": bench.failed},
        asked.json,
    )


def grown(bench: Bench, asked: argparse.Namespace) -> None:
    """Growth, or the long run, or both."""
    result: dict[str, Any] = {"seed": SEED, "cores": CORES, "mode": MODES["auto"]}
    columns, lines = ["long run", ""], list[tuple[Any, ...]]()
    title = f"{LONG} rounds of ten parameters, cohort 5 of 100, MB of all processes"
    if asked.long:
        result["long"] = long_run(bench)
        lines = list((result["long"] or {}).items())
    if asked.growth:
        if asked.long:
            show(title, columns, lines, {}, as_json=False)
        columns = ["grown", "s a round", "ms an update", "start-up, s", "peak MB"]
        title = "W1 but for one thing (1,000 clients, cohort 50); data of a client made lazily"
        lines, result["growth"] = growth(bench)
    show(title, columns, lines, result | {"failed": bench.failed}, asked.json)


if __name__ == "__main__":
    main()
