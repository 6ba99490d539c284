"""A sweep of 12 runs of experiment=fashion_mnist, end to end, beside a loop over the same runs.

Three ways to the same 12 results, three seeds for each of four noise multipliers: one
``tacit simulate --multirun``; a process of ``tacit simulate`` for each run, one after another,
with the engine that tacit takes by itself; and the same with Opacus training one client after
another (``engine=serial --workers 1``), as a loop over a simulator without an engine goes. Every
side starts from nothing and its time is that of its processes, imports and reports included. What
is compiled once on a machine, and read from disk, is there before. Says so and ends with 1 if the
sides disagree: artifacts of the first two are equal bit for bit, the metrics of the third are
close. Run: python benchmarks/sweep.py [--rounds N] [--sides SIDE ...] [--json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import show

TACIT = str(Path(sys.executable).with_name("tacit"))
SEEDS = ("0", "1", "2")
NOISE = ("0.1", "0.1543", "0.25", "0.4")
SWEPT = {"privacy.record.noise_multiplier": NOISE, "seed": SEEDS}
# As --multirun orders them.
RUNS = [
    [f"{k}={v}" for k, v in zip(SWEPT, run, strict=True)]
    for run in itertools.product(*SWEPT.values())
]
# Engines agree to rounding, and encoding rounds at random: a few images in 10,000.
CLOSE = 0.02


@dataclass
class Side:
    """What one way took and gave.

    Attributes:
        results: of the runs, in the order of `RUNS`, as ``--json`` prints them.
        seconds: by the clock, from first to last.
        busy: seconds of processor time, of all its processes.
        peak_mb: resident memory of its largest process.
    """

    results: list[dict[str, Any]]
    seconds: float = 0.0
    busy: float = 0.0
    peak_mb: float = 0.0


def tacit(arguments: Sequence[str], side: Side, quiet: bool) -> dict[str, Any]:
    """What ``tacit simulate`` prints; its time and memory are added to the side's."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [TACIT, "simulate", *arguments, "--json"],
            stdout=subprocess.PIPE,
            stderr=said if quiet else None,
        )
        assert process.stdout is not None
        printed = process.stdout.read()
        # Not Popen.wait, which drops what the process used.
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said.seek(0)
            sys.exit(f"tacit simulate {' '.join(arguments)}:\n{said.read().decode()}")
    side.seconds += time.perf_counter() - began
    side.busy += used.ru_utime + used.ru_stime
    side.peak_mb = max(side.peak_mb, used.ru_maxrss / 1024)
    return dict(json.loads(printed))


def sweep(rounds: int, home: str) -> Side:
    """One ``--multirun``."""
    side = Side([])
    swept = [f"{key}={','.join(values)}" for key, values in SWEPT.items()]
    shared = ["experiment=fashion_mnist", f"rounds={rounds}", *swept]
    side.results = tacit([*shared, "--multirun", "--home", home], side, quiet=False)["runs"]
    return side


def loop(rounds: int, home: str, how: Sequence[str]) -> Side:
    """A process for each run, one after another."""
    side = Side([])
    for number, run in enumerate(RUNS, 1):
        shared = ["experiment=fashion_mnist", f"rounds={rounds}", *run, *how]
        side.results.append(tacit([*shared, "--home", home], side, quiet=True))
        print(f"run {number}/{len(RUNS)} {' '.join(run)}: {side.seconds:.0f} s", file=sys.stderr)
    return side


SIDES: dict[str, Callable[[int, str], Side]] = {
    "sweep": sweep,
    "loop": lambda rounds, home: loop(rounds, home, ()),
    "serial": lambda rounds, home: loop(rounds, home, ("engine=serial", "--workers", "1")),
}
TITLES = {
    "sweep": "one --multirun",
    "loop": "12 processes, auto",
    "serial": "12 processes, serial",
}


def disagreements(sides: dict[str, Side]) -> list[str]:
    """In which runs the sides gave other results than they should."""
    found = []
    first = next(iter(sides.values()))
    for name, side in sides.items():
        if len(side.results) != len(RUNS):
            found.append(f"{name}: {len(side.results)} results of {len(RUNS)} runs")
            continue
        for run, ours, theirs in zip(RUNS, first.results, side.results, strict=True):
            off = abs(ours["metrics"]["accuracy"] - theirs["metrics"]["accuracy"])
            if ours["epsilon"] != theirs["epsilon"] or off > CLOSE:
                found.append(f"{name}: {' '.join(run)}: accuracy is off by {off:g}")
    if {"sweep", "loop"} <= set(sides):
        artifacts = [
            [r["artifact_sha256"] for r in sides[name].results] for name in ("sweep", "loop")
        ]
        if artifacts[0] != artifacts[1]:
            found.append("loop: artifacts aren't those of the sweep")
    return found


def main() -> None:
    """Measures every side and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=10, help="of each run (default: 10)")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    arguments = parser.parse_args()
    sides: dict[str, Side] = {}
    with tempfile.TemporaryDirectory() as home:
        print("warming up", file=sys.stderr)
        tacit(["experiment=fashion_mnist", "rounds=1", "--home", home], Side([]), quiet=True)
    for name in arguments.sides:
        print(TITLES[name], file=sys.stderr)
        with tempfile.TemporaryDirectory() as home:
            sides[name] = SIDES[name](arguments.rounds, home)
    wrong = disagreements(sides)
    first = next(iter(sides.values())).seconds
    rows = [
        (TITLES[name], side.seconds, side.seconds / first, side.busy, side.peak_mb)
        for name, side in sides.items()
    ]
    show(
        f"12 runs of experiment=fashion_mnist rounds={arguments.rounds}, seeds {', '.join(SEEDS)}, "
        f"privacy.record.noise_multiplier {', '.join(NOISE)}, end to end; "
        f"{'DISAGREE' if wrong else 'the sides agree'}",
        ["", "seconds", "times the first", "processor s", "peak MB"],
        rows,
        {
            "rounds": arguments.rounds,
            "seeds": SEEDS,
            "noise_multipliers": NOISE,
            "sides": {
                name: {
                    "seconds": side.seconds,
                    "times_the_first": side.seconds / first,
                    "processor_seconds": side.busy,
                    "peak_mb": side.peak_mb,
                    "accuracy": [r["metrics"]["accuracy"] for r in side.results],
                    "artifacts": [r["artifact_sha256"] for r in side.results],
                }
                for name, side in sides.items()
            },
            "disagreements": wrong,
        },
        arguments.json,
    )
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
