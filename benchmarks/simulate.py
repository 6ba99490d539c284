"""Client updates per second and peak memory, and how both grow.

Each point is a process of its own, so that its peak memory is its own. Grows one thing at a
time: clients, cohort, model size. Run: python benchmarks/simulate.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time

from common import show

BASE = {"clients": 1000, "cohort": 50, "width": 64}
GROWTH = {
    "clients": [1_000, 10_000, 100_000],
    "cohort": [25, 50, 100, 200],
    "width": [16, 64, 256, 1024],
}
ROUNDS, RECORDS = 6, 60


def point(clients: int, cohort: int, width: int) -> dict[str, float]:
    """One federation: 60 records a client, one step of DP-SGD, an MLP of ``width``."""
    import numpy as np
    import torch

    from tacit import Task, simulate

    def data(client: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(client)
        return rng.normal(size=(RECORDS, 64)).astype(np.float32), rng.integers(0, 10, RECORDS)

    task = Task(
        name="benchmark",
        model=lambda: torch.nn.Sequential(
            torch.nn.Linear(64, width), torch.nn.Tanh(), torch.nn.Linear(width, 10)
        ),
        data=data,
        examples_per_client=RECORDS,
    )
    began = time.perf_counter()
    marks: list[float] = []
    settings = [
        "experiment=none",
        f"clients={clients}",
        f"cohort={cohort}",
        f"rounds={ROUNDS}",
        "evaluation=none",
        "engine=serial",
        "privacy.record.sampling_rate=0.5",
    ]
    asked: list[int] = []
    with tempfile.TemporaryDirectory() as home:
        simulate(
            settings,
            task=task,
            home=home,
            workers=1,
            progress=lambda r: (marks.append(time.perf_counter()), asked.append(r.asked)),
        )
    # The first round pays for what is made once.
    steady = sum(asked[1:]) / (marks[-1] - marks[0])
    return {
        "updates_per_second": steady,
        "first_round_seconds": marks[0] - began,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "parameters": 64 * width + width + width * 10 + 10,
    }


def measure(settings: dict[str, int]) -> dict[str, float]:
    """`point` in a process of its own."""
    command = [sys.executable, __file__, "--point", json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measures every point and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="the smallest and largest only")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        print(json.dumps(point(**json.loads(arguments.point))))
        return
    rows, results = [], {}
    for what, values in GROWTH.items():
        shown = [values[0], values[-1]] if arguments.quick else values
        for value in shown:
            settings = {**BASE, what: value}
            found = measure(settings)
            results[f"{what}={value}"] = {**settings, **found}
            rows.append(
                (
                    f"{what}={value}",
                    int(found["parameters"]),
                    found["updates_per_second"],
                    found["first_round_seconds"],
                    found["peak_mb"],
                )
            )
    base = results[f"clients={BASE['clients']}"]
    show(
        f"one process, 1 thread, seed 0, {RECORDS} records a client, DP-SGD on and client-level DP "
        f"on; clients={BASE['clients']} cohort={BASE['cohort']} width={BASE['width']} but for:",
        ["grown", "parameters", "updates/s", "to end of round 1, s", "peak MB"],
        rows,
        {
            "updates_per_second": base["updates_per_second"],
            "peak_mb": base["peak_mb"],
            "points": results,
        },
        arguments.json,
    )


if __name__ == "__main__":
    main()
