"""The Flower ServerApp: the same coordinator over whatever Grid Flower hands it.

Run config: ``overrides``, as on tacit's command line, or ``spec`` and ``rollout`` of a file that
``tacit rollout --plan`` wrote; ``home``, ``resume`` (a run, or "last"),
how long to wait (`tacit.server.deployment.LegSettings`), and whether there are devices too
(`tacit.server.deployment.DeviceSettings`). See `docs/flower.md` and `docs/mixed.md`. A ServerApp
that was killed goes on, when it is started again with ``resume``, from its last released
round.
"""

from __future__ import annotations

import contextlib

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.superlink.grid.inmemory_grid import InMemoryGrid  # Flower's own simulation, no other

from tacit.configs import build
from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ConfigError
from tacit.privacy.rollouts import RolloutPlan
from tacit.server import begin, deployment, runs
from tacit.server.begin import Running
from tacit.server.home import Home
from tacit.server.steady import SteadyGrid
from tacit.server.store import Row, Store
from tacit.tasks.task import Task, load

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs one run to its end, or resumes the one named in the run config."""
    spec = build.from_run_config(context.run_config)
    simulated = isinstance(grid, InMemoryGrid)
    grid = grid if simulated else SteadyGrid(grid)
    deployment.check(spec, simulated)
    settings = deployment.LegSettings.from_config(context.run_config)
    devices = deployment.DeviceSettings.from_config(context.run_config)
    devices.check(spec, simulated)
    home = Home(str(context.run_config.get("home") or "") or None)
    store = Store(home)
    torch.set_num_threads(spec.threads)
    task = load(spec)
    directory = deployment.directory(spec, home, simulated)
    resume = str(context.run_config.get("resume") or "")
    text = str(context.run_config.get("rollout") or "")
    rollout = begin.planned(text) if text else None
    with contextlib.closing(store):
        if not devices.gateway:
            legs = deployment.legs(grid, spec, settings, None if simulated else directory)
            run = _run(spec, task, store, resume, simulated, rollout)
            _rounds(begin.coordinated(run, task, store, home, legs, directory))
            return
        # What only a gateway needs isn't to be had by everyone.
        from tacit.server import mixed

        assert directory is not None
        with mixed.joined(grid, (spec, task), (home, directory), devices) as joined:
            legs = joined.legs(settings)
            run = _run(spec, task, store, resume, simulated, rollout)
            joined.begin(run)
            _rounds(begin.coordinated(run, task, store, home, legs, joined.directory))


def _run(
    spec: RunSpec,
    task: Task,
    store: Store,
    resume: str,
    simulated: bool,
    rollout: RolloutPlan | None,
) -> Row:
    """The run that is asked for, or a new one."""
    run = begin.begun(spec, task, store, resume, rollout)
    begun = runs.spec_of(run)
    if begun.secure.protocol == "shortcut":
        raise ConfigError(
            f"run={run['id']} was begun by `tacit simulate`, without the masks",
            "go on with tacit simulate --resume",
        )
    deployment.check(begun, simulated)
    print(f"tacit run {run['id']}", flush=True)
    return run


def _rounds(made: contextlib.AbstractContextManager[Running]) -> None:
    with made as coordinator:
        for result in coordinator.rounds():
            shown = {**result.metrics, **{f"epsilon.{k}": v for k, v in result.epsilon.items()}}
            print(f"tacit round {result.round}: {shown}", flush=True)
