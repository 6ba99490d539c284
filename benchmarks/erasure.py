"""What handles cost: a charge with them and with members as numbers, a resume, a look-up, a close.

Handles are what a cohort's row has in place of numbers, so that one client can be erased
(`docs/erasure.md`). Each line is a fresh home on SQLite and rounds of charges without training,
since that is all that changes.

Run: python benchmarks/erasure.py [--json]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import show

from tacit import Task
from tacit.configs import build
from tacit.server import charges, runs
from tacit.server.charges import Charges
from tacit.server.erasure.cases import Cases
from tacit.server.erasure.proof import Asked
from tacit.server.home import Home
from tacit.server.store import Store
from tacit.tasks.task import plan

# Clients, expected cohort, charges.
POINTS = ((1_000, 50, 300), (1_000_000, 50, 300), (1_000_000, 1_000, 300), (1_000_000, 10_000, 60))
SETTINGS = ["experiment=none", "mechanism=central", "aggregation=plain", "seed=0"]


def task() -> Task:
    """A model that nobody trains."""
    data = (torch.zeros(2, 4).numpy(), torch.zeros(2, dtype=torch.int64).numpy())
    return Task(
        name="charged",
        model=lambda: torch.nn.Linear(4, 2),
        data=lambda client: data,
        examples_per_client=2,
        test=None,
    )


class Numbers:
    """Members as they were before there were handles."""

    def __init__(self, population: str) -> None:
        pass

    def of(self, c: Any, run: str, clients: list[int]) -> list[int]:
        """The numbers themselves."""
        return clients


def charged(root: Path, point: tuple[int, int, int], members: Any) -> tuple[Store, str, float]:
    """A run with so many charges, and milliseconds for each."""
    clients, cohort, rounds = point
    more = [f"clients={clients}", f"cohort={cohort}", f"rounds={rounds}", "privacy/client=flat"]
    spec = build.compose([*SETTINGS, *more, "privacy.client.noise_multiplier=1.0"])
    store = Store(Home(root))
    run = runs.create(spec, task(), store)["id"]
    honest = charges.Handles
    charges.Handles = members
    try:
        spending = Charges(run, spec, plan(task(), spec), store)
        spending.charge("train", 1)
        began = time.perf_counter()
        for number in range(2, rounds + 1):
            spending.charge("train", number)
        return store, run, (time.perf_counter() - began) * 1000 / (rounds - 1)
    finally:
        charges.Handles = honest


def timed(call: Any) -> tuple[Any, float]:
    """What it returns, and seconds."""
    began = time.perf_counter()
    return call(), time.perf_counter() - began


def measure(point: tuple[int, int, int]) -> dict[str, float]:
    """One line."""
    with tempfile.TemporaryDirectory() as folder:
        before, _, numbers = charged(Path(folder) / "numbers", point, Numbers)
        before.close()
        store, run, handled = charged(Path(folder) / "handles", point, charges.Handles)
        _, resumed = timed(lambda: store.cohorts(run))
        cases = Cases(store)
        client = next(members[0] for _, members in store.cohorts(run) if members)
        case, opened = timed(lambda: cases.open(Asked("charged", client, "simulated"), "me"))
        cases.choose(case.id, "keep", "measured", "me")
        _, closed = timed(lambda: cases.close(case.id, "me"))
        sizes = [path.database.stat().st_size / 1e6 for path in (before.home, store.home)]
        store.close()
    return {
        "ms_a_charge_numbers": numbers,
        "ms_a_charge_handles": handled,
        "mb_numbers": sizes[0],
        "mb_handles": sizes[1],
        "resume_seconds": resumed,
        "open_seconds": opened,
        "close_seconds": closed,
    }


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    results = {f"{n}/{k}": measure((n, k, r)) for n, k, r in POINTS}
    columns = [
        "clients/cohort",
        "ms",
        "with handles",
        "MB",
        "with",
        "resume s",
        "open s",
        "close s",
    ]
    lines = [(name, *found.values()) for name, found in results.items()]
    show("handles in place of numbers", columns, lines, results, asked.json)


if __name__ == "__main__":
    main()
