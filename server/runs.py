"""Starting and resuming a run: its row, its lock, and a coordinator for it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ConfigError, StorageError
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.secagg.directory import Directory
from tacit.server import initial
from tacit.server.coordinator import Coordinator
from tacit.server.home import Home
from tacit.server.legs import Legs
from tacit.server.model import GlobalModel
from tacit.server.store import Row, Store
from tacit.tasks.task import Task
from tacit.tasks.task import plan as privacy_plan


@functools.lru_cache(maxsize=1)
def code_version() -> str:
    """Tacit's version and a digest of the source that runs, whatever the version says."""
    hasher = hashlib.sha256()
    for name in ("privacy", "configs", "tasks", "client", "server", "simulations"):
        found = importlib.util.find_spec(f"tacit.{name}")
        for folder in (found.submodule_search_locations or []) if found else []:
            sources = [p for p in Path(folder).rglob("*") if p.suffix in (".py", ".c", ".h")]
            for path in sorted(sources):
                hasher.update(f"{name}/{path.relative_to(folder)}\x00".encode())
                hasher.update(path.read_bytes())
    return f"tacit {version('tacit')}+src.{hasher.hexdigest()[:12]}"


def create(spec: RunSpec, task: Task, store: Store, cause: int | None = None) -> Row:
    """A new run's row, committed; ``cause`` is the leaf of the fallback that asked for it."""
    spec, begins = initial.settled(spec, task, store)
    plan = privacy_plan(task, spec)
    name = spec.name or task.name
    return add(name, spec, plan, task, store, initial=begins, cause=cause)


def add(name: str, spec: RunSpec, plan: PrivacyPlan, task: Task, store: Store, **more: Any) -> Row:
    """Adds a run's row and its PLAN leaf.

    Args:
        name: of the model.
        spec: its configuration.
        plan: that the task and the configuration make.
        task: what is learned.
        store: where to.
        more: as `Store.create_run`.
    """
    identifier = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    store.create_run(
        {
            "id": identifier,
            "name": name,
            "population": spec.population or task.name,
            "spec": json.dumps(spec.to_dict()),
            "spec_digest": spec.digest(),
            "plan": json.dumps(plan.to_json()),
            "plan_digest": plan.digest(),
            "code": code_version(),
        },
        **more,
    )
    return store.run(identifier)


def spec_of(run: Row) -> RunSpec:
    """The configuration a run was started with.

    Raises:
        ConfigError: by a tacit that knew fewer settings.
    """
    found = json.loads(run["spec"])
    if not {"secure", "faults", "attempts"} <= set(found):
        raise ConfigError(
            f"run={run['id']} was started by an older tacit ({run['code']})",
            "finish it with that version",
        )
    found["budget"] = {"wait": None, **found["budget"]}
    found["secure"] = {"protocol": "full", **found["secure"]}
    # Runs of before there were others were begun, and go on, with the serial engine on a CPU.
    older = {"population": None, "initial": None, "engine": "serial", "device": "cpu"}
    return RunSpec.from_dict({**older, **found})


@contextlib.contextmanager
def coordinator(
    run: Row,
    task: Task,
    store: Store,
    home: Home,
    legs: Legs,
    directory: Directory | None = None,
) -> Iterator[Coordinator]:
    """A coordinator with the run to itself.

    Raises:
        StorageError: another process holds the run.
        ConfigError: the task isn't the one the run was started with.
    """
    with held(run, task, store, home) as (fresh, spec, plan):
        model = GlobalModel(task, spec, initial.begun(fresh, task, spec, store))
        yield Coordinator(fresh, spec, plan, model, store, legs, directory)


@contextlib.contextmanager
def held(
    run: Row, task: Task, store: Store, home: Home
) -> Iterator[tuple[Row, RunSpec, PrivacyPlan]]:
    """A run that nobody else works on within the block: its row as it is now, and its plan.

    Raises:
        StorageError: another process holds the run, or it is over.
        ConfigError: the task isn't the one the run was started with.
    """
    spec = spec_of(run)
    plan = privacy_plan(task, spec)
    if plan.digest() != run["plan_digest"]:
        raise ConfigError(
            f"run={run['id']} was started under privacy plan {run['plan_digest'][:12]}, and this "
            f"task makes it {plan.digest()[:12]}",
            "resume with the task it was started with",
        )
    home.run(run["id"])
    lock = f"runs/{run['id']}/lock"
    with home.lock(lock, busy=f"run={run['id']} is held by another process"):
        fresh = store.run(run["id"])
        if fresh["status"] == "finished":
            raise StorageError(f"run={run['id']} is finished; there is nothing to resume")
        yield fresh, spec, plan
