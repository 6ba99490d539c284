"""A version, ready to answer: verified, exported, checked against torch, warmed.

Guarantees: what `Loader.load` returns has the parameters of the artifact that the version's
RELEASE leaf names, checked as `ModelRegistry.load` does, in a graph that gave what torch gives on
made-up records, just now. A version that can't be so loaded is an error, whatever was cached.

The structure of a task's model is kept in the home, named by a digest of the run's spec, of
tacit's code and of the exporters' versions, and signed with the ledger's key; a file that isn't
so signed is made anew. Parameters are never taken from there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import rfc8785

from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ConfigError, ModelError, StorageError
from tacit.server import runs
from tacit.server.home import write_durably
from tacit.server.registry import ModelRegistry
from tacit.server.store import Row, Store
from tacit.tasks import scoring
from tacit.tasks import task as tasks
from tacit.tasks.scoring import Array, Graph, Template
from tacit.tasks.task import Task

log = logging.getLogger("tacit.scoring")

_DOMAIN = b"tacit scoring template v1\n"
_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")
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
            exported anew by each process.
    """

    def __init__(
        self,
        store: Store,
        registry: ModelRegistry,
        tasks: Callable[[RunSpec], Task] | None = None,
    ) -> None:
        self._store, self._registry, self._tasks = store, registry, tasks
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
        task, template, kept = self._template(spec)
        try:
            graph = scoring.graph(task, spec, arrays, template)
        except ModelError:
            if not kept:
                raise
            # The task's code may be another than when its structure was kept.
            template = self._export(task, spec)
            graph = scoring.graph(task, spec, arrays, template)
        graph.run(np.zeros((1, *graph.shape), graph.dtype))
        return Served(
            model=row["name"],
            number=row["number"],
            artifact=row["artifact"],
            release=row["release"],
            graph=graph,
        )

    def _template(self, spec: RunSpec) -> tuple[Task, Template, bool]:
        """A run's task and structure, and whether it comes from a file."""
        key = spec.digest()
        if key in self._templates:
            return *self._templates[key], False
        task = (self._tasks or tasks.load)(spec)
        template = None if self._tasks else self._read(spec)
        if template is not None:
            self._templates[key] = task, template
            return task, template, True
        return task, self._export(task, spec), False

    def _export(self, task: Task, spec: RunSpec) -> Template:
        made = scoring.template(task, spec)
        self._templates[spec.digest()] = task, made
        if not self._tasks:
            self._write(spec, made)
        return made

    # The file: a template and a signature.

    def _path(self, spec: RunSpec) -> Path:
        made_by = {"code": runs.code_version(), **{name: version(name) for name in _PACKAGES}}
        digest = hashlib.sha256(rfc8785.dumps({"spec": spec.digest(), **made_by})).hexdigest()
        return self._store.home.root / "scoring" / f"{digest}.json"

    def _read(self, spec: RunSpec) -> Template | None:
        path = self._path(spec)
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_bytes())
            signature = base64.b64decode(found.pop("signature"), validate=True)
            signed = _DOMAIN + rfc8785.dumps({"name": path.name, **found})
            if not self._store.signer.verifier.verify(signature, signed):
                raise ValueError("its signature is wrong")
            graph = base64.b64decode(found["graph"], validate=True)
            return Template(
                graph=graph, dtype=found["dtype"], shape=tuple(found["shape"]), rows=found["rows"]
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            log.warning("the graph kept in %s isn't used: %s", path, error)
            return None

    def _write(self, spec: RunSpec, made: Template) -> None:
        path = self._path(spec)
        body = {
            "graph": base64.b64encode(made.graph).decode(),
            "dtype": made.dtype,
            "shape": list(made.shape),
            "rows": made.rows,
        }
        signed = _DOMAIN + rfc8785.dumps({"name": path.name, **body})
        signature = base64.b64encode(self._store.signer.sign(signed)).decode()
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            write_durably(path, json.dumps({**body, "signature": signature}).encode())
        except (OSError, StorageError) as error:
            log.warning("the graph can't be kept in %s: %s", path, error)


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
