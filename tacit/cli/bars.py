"""Progress on stderr: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

    from tacit.configs.spec import RunSpec
    from tacit.server.coordinator import RoundResult
    from tacit.server.rollout import RolloutResult
    from tacit.server.store import Row

Started = Callable[["Row", "RunSpec"], None]
Progress = Callable[["RoundResult"], None]


class _Run:
    """One run's bar, and where there is no terminal its lines on stderr."""

    def __init__(self, console: Console, bars: Bars, what: str) -> None:
        self._console, self._bars, self._what = console, bars, what
        self._task = bars.add_task("starting", total=None, shown="")
        self.rounds = 1

    def started(self, run: Row, spec: RunSpec) -> None:
        """Tells that it begins."""
        self.rounds = spec.rounds
        done = run["round"]
        self._bars.update(self._task, description=run["name"], total=self.rounds, completed=done)
        if not self._console.is_terminal:
            print(f"{self._what} {run['id']}: {self.rounds} rounds", file=sys.stderr)

    def at(self, number: int, shown: str, told: bool = True) -> None:
        """Tells of a released round; ``told`` is whether it has a line of its own."""
        self._bars.update(self._task, completed=number, shown=shown)
        if told and not self._console.is_terminal:
            print(f"round {number}/{self.rounds}: {shown}", file=sys.stderr)


@contextlib.contextmanager
def rounds_bar() -> Iterator[tuple[Started, Progress]]:
    """One run's rounds, with accuracy and epsilon."""
    with _bars() as (console, bars):
        run = _Run(console, bars, "run")

        def progress(result: RoundResult) -> None:
            tenth = max(1, run.rounds // 10)
            often = result.round % tenth == 0 or result.round == 1
            run.at(result.round, _shown(result.metrics, result.epsilon), often)

        yield run.started, progress


@contextlib.contextmanager
def rollout_bar() -> Iterator[tuple[Started, Callable[[RolloutResult], None]]]:
    """One rollout's rounds, with what each arm released."""
    with _bars() as (console, bars):
        run = _Run(console, bars, "rollout")

        def progress(result: RolloutResult) -> None:
            shown = ", ".join(
                f"@{arm.arm.number} accuracy {arm.metrics['accuracy']:.3f}" for arm in result.arms
            )
            run.at(result.round, shown)

        yield run.started, progress


class SweepBars:
    """A sweep: how many runs have ended, and a bar for each that is under way.

    Args:
        console: to print to.
        bars: on it.
        runs: of the sweep.
    """

    def __init__(self, console: Console, bars: Bars, runs: int) -> None:
        self._console, self._bars, self._runs = console, bars, runs
        self._whole = bars.add_task("runs", total=runs, shown="")
        self._tasks: dict[int, Any] = {}
        self._ended = 0

    def started(self, place: int, run: Row, spec: RunSpec) -> None:
        """A run began."""
        name = f"{run['name']} {place + 1}/{self._runs}"
        self._tasks[place] = self._bars.add_task(name, total=spec.rounds, shown="")

    def progress(self, place: int, result: RoundResult) -> None:
        """A round was released."""
        shown = _shown(result.metrics, result.epsilon)
        self._bars.update(self._tasks[place], completed=result.round, shown=shown)

    def ended(self, place: int, label: str, result: Row | None) -> None:
        """A run ended, or its budget refused the first round."""
        self._ended += 1
        self._bars.update(self._whole, completed=self._ended)
        if place in self._tasks:
            self._bars.remove_task(self._tasks.pop(place))
        told = "left out" if result is None else _shown(result["metrics"], result["epsilon"])
        line = f"run {self._ended}/{self._runs} {label}: {told}"
        if self._console.is_terminal:
            self._bars.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr)


@contextlib.contextmanager
def sweep_bars(runs: int) -> Iterator[SweepBars]:
    """The progress of a sweep."""
    with _bars() as (console, bars):
        yield SweepBars(console, bars, runs)


@contextlib.contextmanager
def _bars() -> Iterator[tuple[Console, Bars]]:
    from rich.console import Console
    from rich.logging import RichHandler
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[shown]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    # Through the bars' console, so that a warning doesn't tear them.
    handler = RichHandler(console=console, show_time=False, show_path=False)
    logger = logging.getLogger("tacit")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with bars:
            yield console, bars
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


def _shown(metrics: dict[str, float], epsilon: dict[str, float | None]) -> str:
    parts = []
    if "accuracy" in metrics:
        parts.append(f"accuracy {metrics['accuracy']:.3f}")
    for unit in ("client", "record"):
        value = epsilon[unit]
        if value is not None:
            parts.append(f"epsilon({unit}) {value:.2f}")
    return ", ".join(parts)
