"""``tacit simulate``: one run or a sweep, with progress, a closing table and a report."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tacit.cli.common import HomeOption, JsonOption, number, print_json

if TYPE_CHECKING:
    from tacit.configs.spec import RunSpec
    from tacit.server.coordinator import RoundResult
    from tacit.server.store import Row
    from tacit.simulations.engine import Result


def simulate(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings, such as rounds=10 partition=dirichlet. See docs/."),
    ] = None,
    multirun: Annotated[
        bool, typer.Option("--multirun", "-m", help="Run every combination of key=a,b,c.")
    ] = False,
    resume: Annotated[
        str | None,
        typer.Option("--resume", metavar="RUN", help="Go on with a run: its id, or last."),
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Train a model over simulated clients in this process."""
    from tacit.privacy.errors import ConfigError

    given = overrides or []
    if resume is not None and (given or multirun):
        raise ConfigError(
            "--resume takes no settings: a run goes on as it was started",
            "start a new run to change something",
        )
    if multirun:
        _sweep(given, home, as_json)
        return
    from tacit.configs.build import compose

    if resume is None:
        compose(given)  # A typo should be told before the seconds that torch takes to load.
    from tacit.simulations.engine import simulate as run

    with rounds_bar() as (started, progress):
        result = run(given, home=home, resume=resume, started=started, progress=progress)
    if as_json:
        print_json(result.to_json())
    else:
        _closing(result)


def _sweep(overrides: list[str], home: str | None, as_json: bool) -> None:
    from tacit.configs.build import compose, sweep

    lines = sweep(overrides)
    for line in lines:
        compose(line)
    from tacit.simulations.sweep import run_all

    with rounds_bar(len(lines)) as (started, progress):
        folder, results = run_all(lines, home, started, progress)
    if as_json:
        print_json({"runs": [r for _, r in results], "report": str(folder / "report.html")})
        return
    from tacit.cli.common import print_table

    print_table(
        f"{len(results)} runs",
        ["varied", "run", "rounds", "accuracy", "epsilon client", "epsilon record"],
        [
            (
                label,
                r["run"],
                r["rounds"],
                number(r["metrics"].get("accuracy"), none=""),
                number(r["epsilon"]["client"]),
                number(r["epsilon"]["record"]),
            )
            for label, r in results
        ],
    )
    print(f"report: {folder / 'report.html'}")


Started = Callable[["Row", "RunSpec"], None]
Progress = Callable[["RoundResult"], None]


@contextlib.contextmanager
def rounds_bar(runs: int = 1) -> Iterator[tuple[Started, Progress]]:
    """A bar on stderr with accuracy and epsilon; lines where stderr isn't a terminal."""
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
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[shown]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("starting", total=None, shown="")
    state: dict[str, Any] = {"count": 0, "rounds": 1}

    def started(run: Row, spec: RunSpec) -> None:
        state["count"] += 1
        state["rounds"] = spec.rounds
        of = f" ({state['count']}/{runs})" if runs > 1 else ""
        bar.update(
            task, description=f"{run['name']}{of}", total=spec.rounds, completed=run["round"]
        )
        if not console.is_terminal:
            print(f"run {run['id']}{of}: {spec.rounds} rounds", file=sys.stderr)

    def progress(result: RoundResult) -> None:
        shown = _shown(result)
        bar.update(task, completed=result.round, shown=shown)
        tenth = max(1, state["rounds"] // 10)
        if not console.is_terminal and (result.round % tenth == 0 or result.round == 1):
            print(f"round {result.round}/{state['rounds']}: {shown}", file=sys.stderr)

    # Through the bar's console, so that a warning doesn't tear it.
    handler = RichHandler(console=console, show_time=False, show_path=False)
    logger = logging.getLogger("tacit")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with bar:
            yield started, progress
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


def _shown(result: RoundResult) -> str:
    parts = []
    if "accuracy" in result.metrics:
        parts.append(f"accuracy {result.metrics['accuracy']:.3f}")
    for unit in ("client", "record"):
        value = result.epsilon[unit]
        if value is not None:
            parts.append(f"epsilon({unit}) {value:.2f}")
    return ", ".join(parts)


def _closing(result: Result) -> None:
    from tacit.cli.common import print_table

    print_table(
        f"{result.model}: {result.status} after {result.rounds} rounds",
        ["unit", "against", "amplified", "epsilon", "delta"],
        [
            (
                c["unit"],
                c["adversary"],
                "yes" if c["amplified"] else "no",
                number(c["epsilon"]),
                f"{c['delta']:.3g}",
            )
            for c in result.claims
        ],
    )
    if result.message:
        print(result.message)
    if "accuracy" in result.metrics:
        from tacit.simulations.report import EVALUATIONS

        print(f"accuracy  {result.metrics['accuracy']:.4f} ({EVALUATIONS[result.evaluation]})")
    print(f"artifact  {result.artifact_sha256}")
    print(f"speed     {result.client_updates_per_second:.0f} client updates/s")
    print(f"report    {result.folder / 'report.html'}")
    print(f"run       {result.run}")
