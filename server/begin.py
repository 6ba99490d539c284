"""Beginning or going on with a run in a deployment: a training, or a rollout of versions.

A rollout is planned where the versions are, by ``tacit rollout --plan FILE``: the file has the
configuration, which clients read too, and what is evaluated. Clients answer it as they answer a
training's evaluations, by their own plan, floors and caps.

Guarantees: a run that is gone on with is what its PLAN leaf says, whatever is asked for now.
"""

from __future__ import annotations

import contextlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ConfigError
from tacit.privacy.rollouts import RolloutPlan
from tacit.privacy.secagg.directory import Directory
from tacit.server import rollouts, runs
from tacit.server.home import Home, explained
from tacit.server.legs import Legs
from tacit.server.store import Row, Store
from tacit.tasks.task import Task


class Round(Protocol):
    """A released round of either."""

    @property
    def round(self) -> int:
        """Its number, from 1."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """What may be shown."""

    @property
    def epsilon(self) -> Mapping[str, float | None]:
        """As beside every release."""

    @property
    def accepted(self) -> int:
        """Vectors in its sums: the operator's to know."""


class Running(Protocol):
    """A coordinator of either."""

    def rounds(self) -> Iterator[Round]:
        """Steps until it ends."""


@dataclass(frozen=True, slots=True)
class RolloutFile:
    """What ``tacit rollout --plan`` writes, and Flower's run config takes.

    Attributes:
        spec: configuration of the run.
        rollout: what its rounds evaluate.
    """

    spec: RunSpec
    rollout: RolloutPlan

    def text(self) -> str:
        """TOML of two texts, each JSON: Flower's run config has no other shapes."""
        parts = {"spec": self.spec.to_dict(), "rollout": self.rollout.to_json()}
        # A JSON string is a TOML basic string.
        lines = [f"{name} = {json.dumps(json.dumps(value))}" for name, value in parts.items()]
        return "# Of `tacit rollout --plan`.\n" + "\n".join(lines) + "\n"

    @classmethod
    def read(cls, path: Path) -> RolloutFile:
        """Reads one.

        Raises:
            StorageError: it can't be read.
            ConfigError: it isn't one.
        """
        with explained(f"rollout={path} can't be read"):
            data = path.read_bytes()
        try:
            found = tomllib.loads(data.decode())
            spec = RunSpec.from_dict(json.loads(found["spec"]))
            return cls(spec, planned(found["rollout"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"rollout={path} isn't a rollout's file: {error}", "tacit rollout --plan FILE"
            ) from error


def planned(text: str) -> RolloutPlan:
    """What a rollout evaluates, from its JSON.

    Raises:
        ConfigError: it isn't that.
    """
    try:
        value: Any = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"rollout isn't JSON: {error}", "tacit rollout --plan FILE") from error
    return RolloutPlan.from_json(value)


def begun(
    spec: RunSpec, task: Task, store: Store, resume: str, rollout: RolloutPlan | None = None
) -> Row:
    """The run that is to be gone on with, or a new one.

    Args:
        spec: of a new one.
        task: what is learned.
        store: of the home.
        resume: a run, or "last"; "" begins one.
        rollout: what a new one evaluates; None trains.
    """
    if resume:
        return store.run(resume)
    if rollout is None:
        return runs.create(spec, task, store)
    return rollouts.create(spec, rollout, task, store)


@contextlib.contextmanager
def coordinated(
    run: Row, task: Task, store: Store, home: Home, legs: Legs, directory: Directory | None
) -> Iterator[Running]:
    """The coordinator of a training or a rollout, with the run to itself; raises as theirs do."""
    (planned_leaf,) = store.leaves(run["id"], ("PLAN",))
    opened = rollouts.opened if "rollout" in planned_leaf["body"] else runs.coordinator
    with opened(run, task, store, home, legs, directory) as found:
        yield found
