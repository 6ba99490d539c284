"""The Flower ServerApp: the same coordinator over whatever Grid Flower hands it.

Run config: ``overrides``, as on tacit's command line, ``home``, ``resume`` (a run, or "last"),
and how long to wait (`tacit.server.deployment.LegSettings`). See `docs/flower.md`. A ServerApp
that was killed goes on, when it is started again with ``resume``, from its last released
round.
"""

from __future__ import annotations

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.superlink.grid.inmemory_grid import InMemoryGrid  # Flower's own simulation, no other

from tacit.configs import build
from tacit.privacy.errors import ConfigError
from tacit.server import deployment, runs
from tacit.server.home import Home
from tacit.server.store import Store
from tacit.tasks.task import load

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs one run to its end, or resumes the one named in the run config."""
    spec = build.from_run_config(context.run_config)
    simulated = isinstance(grid, InMemoryGrid)
    deployment.check(spec, simulated)
    settings = deployment.LegSettings.from_config(context.run_config)
    home = Home(str(context.run_config.get("home") or "") or None)
    store = Store(home)
    torch.set_num_threads(spec.threads)
    task = load(spec)
    directory = deployment.directory(spec, home, simulated)
    legs = deployment.legs(grid, spec, settings, None if simulated else directory)
    resumed = str(context.run_config.get("resume") or "")
    run = store.run(resumed) if resumed else runs.create(spec, task, store)
    begun = runs.spec_of(run)
    if begun.secure.protocol == "shortcut":
        raise ConfigError(
            f"run={run['id']} was begun by `tacit simulate`, without the masks",
            "go on with tacit simulate --resume",
        )
    deployment.check(begun, simulated)
    print(f"tacit run {run['id']}", flush=True)
    with runs.coordinator(run, task, store, home, legs, directory) as coordinator:
        for result in coordinator.rounds():
            shown = {**result.metrics, **{f"epsilon.{k}": v for k, v in result.epsilon.items()}}
            print(f"tacit round {result.round}: {shown}", flush=True)
    store.close()
