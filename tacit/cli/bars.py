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


@contextlib.contextmanager
def rounds_bar() -> Iterator[tuple[Started, Progress]]:
    """One run's rounds, with accuracy and epsilon."""
    with _bars() as (console, bars):
        task = bars.add_task("starting", total=None, shown="")
        rounds = 1

        def started(run: Row, spec: RunSpec) -> None:
            nonlocal rounds
            rounds = spec.rounds
            bars.update(task, description=run["name"], total=rounds, completed=run["round"])
            if not console.is_terminal:
                print(f"run {run['id']}: {rounds} rounds", file=sys.stderr)

        def progress(result: RoundResult) -> None:
            shown = _shown(result.metrics, result.epsilon)
            bars.update(task, completed=result.round, shown=shown)
            tenth = max(1, rounds // 10)
            if not console.is_terminal and (result.round % tenth == 0 or result.round == 1):
                print(f"round {result.round}/{rounds}: {shown}", file=sys.stderr)

        yield started, progress


@contextlib.contextmanager
def rollout_bar() -> Iterator[tuple[Started, Callable[[RolloutResult], None]]]:
    """One rollout's rounds, with what each arm released."""
    with _bars() as (console, bars):
        task = bars.add_task("starting", total=None, shown="")
        rounds = 1

        def started(run: Row, spec: RunSpec) -> None:
            nonlocal rounds
            rounds = spec.rounds
            bars.update(task, description=run["name"], total=rounds, completed=run["round"])
            if not console.is_terminal:
                print(f"rollout {run['id']}: {rounds} rounds", file=sys.stderr)

        def progress(result: RolloutResult) -> None:
            shown = ", ".join(
                f"@{arm.arm.number} accuracy {arm.metrics['accuracy']:.3f}" for arm in result.arms
            )
            bars.update(task, completed=result.round, shown=shown)
            if not console.is_terminal:
                print(f"round {result.round}/{rounds}: {shown}", file=sys.stderr)

        yield started, progress


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
