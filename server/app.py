"""The Flower ServerApp: the same coordinator over whatever Grid Flower hands it.

Run config: ``overrides``, as on tacit's command line, and ``home``. See `docs/flower.md`.
"""

from __future__ import annotations

import logging

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.superlink.grid.inmemory_grid import InMemoryGrid  # Flower's own simulation, no other

from tacit.configs import build
from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ConfigError
from tacit.privacy.secagg.directory import Directory, PinnedDirectory, enrol
from tacit.server import runs
from tacit.server.home import Home
from tacit.server.legs import Legs, census
from tacit.server.store import Store
from tacit.tasks.task import load

log = logging.getLogger("tacit")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs one run to its end, or resumes the one named in the run config."""
    spec = build.from_run_config(context.run_config)
    if spec.seed is not None and not isinstance(grid, InMemoryGrid):
        raise ConfigError(
            f"seed={spec.seed} is for simulations: noise from a seed protects nobody",
            "deploy with seed=null",
        )
    if spec.faults.active:
        raise ConfigError(
            "faults are for `tacit simulate`: here they would be left out", "set faults.* to 0"
        )
    if spec.secure.protocol == "shortcut":
        raise ConfigError(
            "secure.protocol=shortcut is for `tacit simulate`: it leaves the masks out",
            "deploy with secure.protocol=full",
        )
    home = Home(str(context.run_config.get("home") or "") or None)
    store = Store(home)
    torch.set_num_threads(spec.threads)
    task = load(spec)
    legs = Legs(grid, census(grid, spec.clients), deadline=600.0)
    resumed = str(context.run_config.get("resume") or "")
    directory = _directory(spec, home, isinstance(grid, InMemoryGrid))
    run = store.run(resumed) if resumed else runs.create(spec, task, store)
    if runs.spec_of(run).secure.protocol == "shortcut":
        raise ConfigError(
            f"run={run['id']} was begun by `tacit simulate`, without the masks",
            "go on with tacit simulate --resume",
        )
    print(f"tacit run {run['id']}", flush=True)
    with runs.coordinator(run, task, store, home, legs, directory) as coordinator:
        for result in coordinator.rounds():
            shown = {**result.metrics, **{f"epsilon.{k}": v for k, v in result.epsilon.items()}}
            print(f"tacit round {result.round}: {shown}", flush=True)
    store.close()


def _directory(spec: RunSpec, home: Home, simulated: bool) -> Directory | None:
    """The clients' public keys: in a simulation made here, else pinned beforehand."""
    if spec.aggregation != "secure":
        return None
    folder = home.root / "clients"
    if simulated:
        return enrol(folder, spec.clients)
    return PinnedDirectory.load(folder / "directory.json")
