"""``tacit simulate``: one run or a sweep, with progress, a closing table and a report."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tacit.cli.bars import Progress, Started, rounds_bar, sweep_bars
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
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes to train clients in; changes no result. By default one a core where "
            "that pays. With --multirun: runs at a time.",
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show where time and memory go, by phase.")
    ] = False,
    tensorboard: Annotated[
        str | None,
        typer.Option("--tensorboard", metavar="DIR", help="Plot rounds in a folder there."),
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Train a model over simulated clients on this machine."""
    given = overrides or []
    _check(resume is not None, bool(given), multirun, profile, tensorboard is not None)
    if multirun:
        _sweep(given, home, as_json, workers)
        return
    from tacit.configs.build import compose

    if resume is None:
        compose(given)  # A typo should be told before the seconds that torch takes to load.
    from tacit.simulations.engine import simulate as run
    from tacit.simulations.profile import profiled

    with (
        rounds_bar() as (started, progress),
        profiled() if profile else contextlib.nullcontext() as spent,
        contextlib.ExitStack() as files,
    ):
        if tensorboard is not None:
            started, progress = _plotted(tensorboard, started, progress, files)
        result = run(
            given,
            home=home,
            resume=resume,
            started=started,
            progress=progress,
            workers=workers,
        )
    phases = spent.rows() if spent is not None else None
    if as_json:
        print_json({**result.to_json(), **({"profile": phases} if phases else {})})
        return
    closing(result)
    if phases:
        _phases(phases)


def _plotted(
    folder: str, started: Started, progress: Progress, files: contextlib.ExitStack
) -> tuple[Started, Progress]:
    """Plots each round too, in a folder of the run's own."""
    from pathlib import Path

    from tacit.simulations.hooks import TensorBoard, check_tensorboard

    check_tensorboard()
    hooks: list[Progress] = [progress]

    def begin(run: Row, spec: RunSpec) -> None:
        hooks.append(files.enter_context(TensorBoard(Path(folder) / run["id"])))
        started(run, spec)

    def tell(result: RoundResult) -> None:
        for hook in hooks:
            hook(result)

    return begin, tell


def _check(resumes: bool, given: bool, multirun: bool, profile: bool, plots: bool) -> None:
    from tacit.privacy.errors import ConfigError

    if resumes and (given or multirun):
        raise ConfigError(
            "--resume takes no settings: a run goes on as it was started",
            "start a new run to change something",
        )
    for name, asked in (("--profile", profile), ("--tensorboard", plots)):
        if multirun and asked:
            raise ConfigError(f"{name} is for one run", "leave out --multirun")


def _phases(rows: list[dict[str, Any]]) -> None:
    from tacit.cli.common import print_table

    print_table(
        "where the time went",
        ["phase", "seconds", "share", "MB at most"],
        [
            (
                row["phase"],
                f"{row['seconds']:.2f}",
                f"{row['share']:.0%}",
                number(row["peak_mb"], none=""),
            )
            for row in rows
        ],
    )


def _sweep(overrides: list[str], home: str | None, as_json: bool, workers: int | None) -> None:
    from tacit.configs.build import compose, sweep

    lines = sweep(overrides)
    for line in lines:
        compose(line)
    from tacit.simulations.sweep import run_all

    with sweep_bars(len(lines)) as watch:
        folder, results = run_all(lines, home, watch, workers)
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


def closing(result: Result) -> None:
    """What a run came to."""
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
