"""A version, ready to answer: verified, its graph checked against torch, warmed.

Guarantees: what `Loader.load` returns is of the artifact that the version's RELEASE leaf names,
verified just now as `ModelRegistry.load` does. Its graph was made of that artifact by this code and
gave what torch gives on made-up records (`tacit.tasks.scoring`), now or when it was made. A version
that can't be so loaded is an error, whatever was kept.

Graphs are kept in the home, named by a digest of artifact, spec, code and exporters' versions, and
signed with the ledger's key; a file that isn't so signed is made anew. A server has them made by a
process beside it (`tacit.server.scoring.export`): exporting is Python for seconds, and would hold
up answers.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime

from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ConfigError
from tacit.server import runs
from tacit.server.registry import ModelRegistry
from tacit.server.scoring import graphs
from tacit.server.store import Row, Store
from tacit.tasks import scoring
from tacit.tasks import task as tasks
from tacit.tasks.scoring import Array, Graph, Template
from tacit.tasks.task import Task

# Versions that are kept loaded: of each alias, and those they go back to.
_KEPT = 16


@dataclass(frozen=True, kw_only=True)
class Served:
    """A version that answers.

    Attributes:
        model: its name.
        number: of the version.
        artifact: SHA-256 of its parameters' file, in hex.
        release: its RELEASE leaf.
        graph: what runs.
    """

    model: str
    number: int
    artifact: str
    release: int
    graph: Graph = field(repr=False)

    def run(self, inputs: Array, options: onnxruntime.RunOptions | None = None) -> Array:
        """What the model gives for each record; see `Graph.run`."""
        return self.graph.run(inputs, options)

    def records(self, given: Any) -> Array:
        """Records as the model takes them, from JSON or an array.

        Raises:
            ConfigError: they have another shape, or something in them isn't a number that the
                model can take.
        """
        return as_records(given, self.graph.dtype, self.graph.shape)


class Loader:
    """Makes versions of a home ready.

    Args:
        store: of the home.
        registry: its versions.
        tasks: the task of a run's spec; None takes what the spec names. A task given here is
            exported by this process, and nothing is kept.
        apart: whether graphs are made in a process of their own.
    """

    def __init__(
        self,
        store: Store,
        registry: ModelRegistry,
        tasks: Callable[[RunSpec], Task] | None = None,
        apart: bool = False,
    ) -> None:
        self._store, self._registry = store, registry
        self._tasks, self._apart = tasks, apart
        self._lock = threading.Lock()
        self._served: OrderedDict[int, Served] = OrderedDict()
        self._templates: dict[str, tuple[Task, Template]] = {}

    def load(self, row: Row) -> Served:
        """A version, ready.

        Args:
            row: the registry's.

        Raises:
            StorageError: its artifact isn't what was released, or can't be read.
            ModelError: its model can't be served, or its graph isn't torch's.
            ConfigError, DataError: its task can't be loaded here.
        """
        with self._lock:
            found = self._served.get(row["id"])
            if found is None:
                found = self._loaded(row)
                self._served[row["id"]] = found
                while len(self._served) > _KEPT:
                    self._served.popitem(last=False)
            self._served.move_to_end(row["id"])
            return found

    def _loaded(self, row: Row) -> Served:
        arrays = self._registry.load(row)
        spec = runs.spec_of(self._store.run(row["run"]))
        kept = None if self._tasks else graphs.Kept(self._store, spec, row["artifact"])
        graph = kept.read() if kept else None
        if graph is None and kept and self._apart:
            graphs.made_apart(self._store.home, row)
            graph = kept.read()
        if graph is None:
            graph = self._made(spec, arrays)
            if kept:
                kept.write(graph)
        graph.run(np.zeros((1, *graph.shape), graph.dtype))
        return Served(
            model=row["name"],
            number=row["number"],
            artifact=row["artifact"],
            release=row["release"],
            graph=graph,
        )

    def _made(self, spec: RunSpec, arrays: Mapping[str, Array]) -> Graph:
        """A graph, exported and checked here."""
        key = spec.digest()
        if key not in self._templates:
            task = (self._tasks or tasks.load)(spec)
            self._templates[key] = task, scoring.template(task, spec)
        task, template = self._templates[key]
        return scoring.graph(task, spec, arrays, template)


def as_records(given: Any, dtype: str, shape: tuple[int, ...]) -> Array:
    """Records as an array [n, ...] of one type and shape.

    Args:
        given: lists of numbers, or an array.
        dtype: as numpy calls it.
        shape: of a record.

    Raises:
        ConfigError: it isn't; or a number isn't finite, or has no place in ``dtype``.
    """
    want = ", ".join(["n", *map(str, shape)])
    try:
        array = np.asarray(given)
    except (ValueError, OverflowError, RecursionError) as error:
        raise ConfigError(f"inputs are not one array of shape [{want}]") from error
    wanted = np.dtype(dtype)
    if array.ndim == 0 or array.shape[1:] != shape or len(array) == 0:
        raise ConfigError(f"inputs.shape={list(array.shape)} must be [{want}], with n at least 1")
    if array.dtype.kind not in (
        "iuf" if wanted.kind == "f" else "iu" if wanted.kind != "b" else "b"
    ):
        raise ConfigError(f"inputs hold something else than numbers of dtype={dtype}")
    with np.errstate(over="ignore", invalid="ignore"):
        made = np.ascontiguousarray(array.astype(wanted))
    if wanted.kind == "f" and not np.isfinite(made).all():
        row = int(np.argmin(np.isfinite(made.reshape(len(made), -1)).all(1)))
        raise ConfigError(f"inputs[{row}] has a number that isn't finite in {dtype}")
    if wanted.kind in "iu" and not np.array_equal(made, array):
        raise ConfigError(f"inputs have a number beyond dtype={dtype}")
    return made
