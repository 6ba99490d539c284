"""Many runs, one comparison: what ``--multirun`` does."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tacit.configs.spec import RunSpec
from tacit.privacy.errors import BudgetError
from tacit.server.coordinator import RoundResult
from tacit.server.home import Home, explained, write_durably
from tacit.server.store import Row
from tacit.simulations import report
from tacit.simulations.engine import simulate

log = logging.getLogger("tacit")


def run_all(
    lines: Sequence[Sequence[str]],
    home: str | None,
    started: Callable[[Row, RunSpec], None] | None = None,
    progress: Callable[[RoundResult], None] | None = None,
) -> tuple[Path, list[tuple[str, Row]]]:
    """Runs every command line, one after another.

    A run whose budget allows not even a round is left out of the comparison, with a warning.
    What is finished is written after every run, so an interrupted sweep leaves a report of
    the runs it did.

    Args:
        lines: overrides of each run.
        home: as for `tacit.simulations.engine.simulate`.
        started: called at the start of each.
        progress: called after each round.

    Returns:
        The folder of the comparison, and for each run what was varied and its result.
    """
    place = Home(home)
    folder = place.root / "sweeps" / f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
    with explained(f"{folder} can't be made"):
        folder.mkdir(parents=True, mode=0o700)
    varied = _varied(lines)
    results: list[tuple[str, Row]] = []
    for line, label in zip(lines, varied, strict=True):
        try:
            result = simulate(line, home=place.root, started=started, progress=progress)
        except BudgetError as refusal:
            log.warning("left out: %s: %s", label, refusal.message)
            continue
        results.append((label, result.to_json()))
        report.compare(results, folder)
        write_durably(folder / "results.json", json.dumps(results).encode())
    return folder, results


def _varied(lines: Sequence[Sequence[str]]) -> list[str]:
    """The settings in which the runs differ."""
    common = set.intersection(*(set(line) for line in lines)) if len(lines) > 1 else set()
    return [" ".join(o.replace("/", ".") for o in line if o not in common) for line in lines]
