"""Many runs, one comparison: what ``--multirun`` does."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Callable, Sequence
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


Ended = Callable[[int, "Row | str"], None]


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
    done: dict[int, Row] = {}

    def ended(k: int, found: Row | str) -> None:
        if watch is not None:
            watch.ended(k, varied[k], found if isinstance(found, dict) else None)
        if isinstance(found, str):
            log.warning("left out: %s: %s", varied[k], found)
            return
        done[k] = found
        results = [(varied[i], done[i]) for i in sorted(done)]
        report.compare(results, folder)
        write_durably(folder / "results.json", json.dumps(results).encode())

    _run(lines, place, (watch, ended), workers)
    return folder, [(varied[k], done[k]) for k in sorted(done)]


def _run(
    lines: Sequence[Sequence[str]],
    home: Home,
    watching: tuple[Watch | None, Ended],
    workers: int | None,
) -> None:
    """Runs the lines; tells each run's result, or why its budget refused it, as it ends."""
    watch, ended = watching
    specs = [compose(line) for line in lines]
    count = min(available() if workers is None else workers, len(lines))
    if any(spec.threads > 1 or spec.device != "cpu" for spec in specs):
        count = 1  # A worker has one thread, and a process that uses a GPU can't be forked.

    def work(item: tuple[int, Sequence[str]], tell: Tell) -> None:
        _one(*item, home, tell)

    def told(note: Any) -> None:
        kind, *rest = note
        if kind == "ended":
            ended(*rest)
        elif watch is not None:
            getattr(watch, kind)(*rest)

    if count <= 1:
        for item in enumerate(lines):
            work(item, told)
        return
    # What tasks load and keep is then there, once, for every process.
    for spec in {(spec.task, spec.data): spec for spec in specs}.values():
        load(spec)
    # What is there isn't garbage: workers needn't look at it, nor copy its pages by looking.
    gc.freeze()
    try:
        pool = Pool(work, count, told)
    finally:
        gc.unfreeze()
    try:
        for _ in pool.map(enumerate(lines)):
            pass
    finally:
        pool.close()


def _one(place: int, line: Sequence[str], home: Home, tell: Tell) -> None:
    """One run, which tells how it goes and how it ended."""
    try:
        result = simulate(
            line,
            home=home.root,
            started=lambda run, spec: tell(("started", place, run, spec)),
            progress=lambda result: tell(("progress", place, result)),
            workers=1,
        )
    except BudgetError as refusal:
        tell(("ended", place, refusal.message))
    else:
        tell(("ended", place, result.to_json()))
    # A run's records are in cycles, and the next run brings its own.
    gc.collect()


def _varied(lines: Sequence[Sequence[str]]) -> list[str]:
    """The settings in which the runs differ."""
    common = set.intersection(*(set(line) for line in lines)) if len(lines) > 1 else set()
    return [" ".join(o.replace("/", ".") for o in line if o not in common) for line in lines]
