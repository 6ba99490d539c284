"""Many runs, one comparison: what ``--multirun`` does."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from tacit.configs.build import compose
from tacit.configs.spec import RunSpec
from tacit.privacy.errors import BudgetError
from tacit.server.coordinator import RoundResult
from tacit.server.home import Home, explained, write_durably
from tacit.server.store import Row
from tacit.simulations import report
from tacit.simulations.engine import simulate
from tacit.simulations.workers import Pool, Tell, available
from tacit.tasks.task import load

log = logging.getLogger("tacit")


class Watch(Protocol):
    """Is told how a sweep goes; runs are known by their place in it."""

    def started(self, place: int, run: Row, spec: RunSpec) -> None:
        """A run began."""

    def progress(self, place: int, result: RoundResult) -> None:
        """A round was released."""

    def ended(self, place: int, label: str, result: Row | None) -> None:
        """A run ended, or its budget refused the first round."""


def run_all(
    lines: Sequence[Sequence[str]],
    home: str | None,
    watch: Watch | None = None,
    workers: int | None = None,
) -> tuple[Path, list[tuple[str, Row]]]:
    """Runs every command line, several at a time.

    A run whose budget is spent stops; one whose budget allows not even a round is left out of
    the comparison, with a warning. What is finished is written after every run, so an
    interrupted sweep leaves a report of the runs it did.

    Args:
        lines: overrides of each run.
        home: as for `tacit.simulations.engine.simulate`.
        watch: is told how it goes.
        workers: runs at a time, each in a process of its own that shares the data loaded
            before; None takes one a core. It changes no result.

    Returns:
        The folder of the comparison, and for each run what was varied and its result.
    """
    place = Home(home)
    folder = place.root / "sweeps" / f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
    with explained(f"{folder} can't be made"):
        folder.mkdir(parents=True, mode=0o700)
    varied = _varied(lines)
    results: list[tuple[str, Row]] = []
    for k, found in enumerate(_results(lines, place, watch, workers)):
        if watch is not None:
            watch.ended(k, varied[k], found if isinstance(found, dict) else None)
        if isinstance(found, str):
            log.warning("left out: %s: %s", varied[k], found)
            continue
        results.append((varied[k], found))
        report.compare(results, folder)
        write_durably(folder / "results.json", json.dumps(results).encode())
    return folder, results


def _results(
    lines: Sequence[Sequence[str]], home: Home, watch: Watch | None, workers: int | None
) -> Iterator[Row | str]:
    """Each run's result in the lines' order, or why its budget refused it."""
    specs = [compose(line) for line in lines]
    count = min(available() if workers is None else workers, len(lines))
    if any(spec.threads > 1 for spec in specs):
        count = 1  # A worker has one thread.

    def work(item: tuple[int, Sequence[str]], tell: Tell) -> Row | str:
        place, line = item
        try:
            return simulate(
                line,
                home=home.root,
                started=lambda run, spec: tell(("started", place, run, spec)),
                progress=lambda result: tell(("progress", place, result)),
                workers=1,
            ).to_json()
        except BudgetError as refusal:
            return refusal.message

    def told(note: Any) -> None:
        kind, *rest = note
        if watch is not None:
            getattr(watch, kind)(*rest)

    if count <= 1:
        yield from (work(item, told) for item in enumerate(lines))
        return
    # What tasks load and keep is then there, once, for every process.
    for spec in {(spec.task, spec.data): spec for spec in specs}.values():
        load(spec)
    pool = Pool(work, count, told)
    try:
        yield from pool.map(enumerate(lines))
    finally:
        pool.close()


def _varied(lines: Sequence[Sequence[str]]) -> list[str]:
    """The settings in which the runs differ."""
    common = set.intersection(*(set(line) for line in lines)) if len(lines) > 1 else set()
    return [" ".join(o.replace("/", ".") for o in line if o not in common) for line in lines]
