"""The compiled cohort engine: one call of C trains one client, all its steps.

Computes what `tacit.client.trainer.Trainer` does (DP-SGD after Abadi et al. 2016, Algorithm 1,
in `tacit.client.dpsgd`), up to rounding: the norm of a linear layer's per-record gradient comes
from its factors (Goodfellow 2015, arXiv:1510.01799), sums are in another order. It knows chains
of a few layers (`tacit.simulations.cohort.fused.graph`) under `torch`'s cross-entropy, and
refuses everything else.

An engine belongs to one thread; it keeps its memory from call to call, and nothing of a client.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit.privacy.errors import DataError, ModelError
from tacit.privacy.mechanisms import MARGIN
from tacit.privacy.messages import Vector
from tacit.privacy.noise import SimulationSource
from tacit.simulations.cohort.fused import compiler
from tacit.simulations.cohort.fused.graph import Chain, chain
from tacit.simulations.cohort.fused.shapes import Shape, Spec, bind
from tacit.simulations.cohort.job import Job, Recipe, UnsupportedError
from tacit.tasks.task import Task

# What a chunk of records may take: it should stay in the second cache.
_CACHE = 768 * 1024
_NO_ROW, _NO_CLASS = 1, 2
_SILENT, _NORMALS, _WORDS = 0, 1, 2


class _Settings(ctypes.Structure):
    """``struct settings`` of kernel.c."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("steps", "size", "summed", "clipped", "chunk")),
        *((name, ctypes.c_double) for name in ("learning_rate", "proximal", "limit")),
        *((name, ctypes.c_double) for name in ("denominator", "noise")),
    ]


def fused(task: Task, model: nn.Module, recipe: Recipe) -> FusedEngine:
    """The compiled engine for a model.

    Args:
        task: its loss must be `torch.nn.functional.cross_entropy` itself.
        model: without hooks; frozen weights are copied from it, trained ones aren't looked at.
        recipe: how clients train.

    Raises:
        UnsupportedError: there is no compiler, or it doesn't know the model or the loss.
    """
    if task.loss is not nn.functional.cross_entropy:
        raise UnsupportedError("a loss other than torch.nn.functional.cross_entropy")
    if recipe.summed and (recipe.clip is None or recipe.steps != 1):
        raise UnsupportedError("sums of other than one clipped step")
    return FusedEngine(chain(model), recipe, compiler.library())


class FusedEngine:
    """Trains clients one after another; made by `fused`.

    Args:
        found: the model's layers.
        recipe: how clients train.
        library: the compiled source.

    Attributes:
        name: "fused".
    """

    name = "fused"

    def __init__(self, found: Chain, recipe: Recipe, library: ctypes.CDLL) -> None:
        self._chain, self._recipe = found, recipe
        # Declared on functions of this engine's own: a library's are everybody's.
        pointer, whole = ctypes.c_void_p, ctypes.c_int64
        self._new = library["tacit_plan"]
        self._new.restype, self._new.argtypes = (
            pointer,
            [pointer, pointer, whole, whole, whole, pointer, whole, whole],
        )
        self._train = library["tacit_train"]
        self._train.restype, self._train.argtypes = (
            whole,
            [*[pointer] * 4, whole, *[pointer] * 3, whole, *[pointer] * 2],
        )
        self._release = library["tacit_free"]
        self._release.restype, self._release.argtypes = None, [pointer]
        self._shape: Shape | None = None
        self._plan: int | None = None
        self._free: weakref.finalize[..., FusedEngine] | None = None
        self._classes = 1

    def updates(self, parameters: Vector, jobs: Sequence[Job]) -> list[NDArray[Any]]:
        """Each job's update, in the jobs' order.

        Args:
            parameters: the round's model, shape [d]; not modified.
            jobs: of some clients.

        Returns:
            Arrays of shape [d]: float32, or float64 where the recipe is ``summed``. A record
            whose gradient isn't finite counts as zero.

        Raises:
            UnsupportedError: records are of a shape or type that it can't take.
            DataError: a target isn't a class.
            ModelError: ``parameters`` has another shape.
        """
        if parameters.shape != (self._chain.size,):
            raise ModelError(f"vector shape={parameters.shape} should be ({self._chain.size},)")
        start = np.ascontiguousarray(parameters, dtype=np.float32)
        kind = np.float64 if self._recipe.summed else np.float32
        # One block: the pages of many small ones would cost as much as a client's training.
        out = np.empty((len(jobs), self._chain.size), dtype=kind)
        for job, update in zip(jobs, out, strict=True):
            self._update(start, job, update)
        return list(out)

    def _update(self, start: Vector, job: Job, out: NDArray[Any]) -> None:
        steps = self._recipe.steps
        if len(job.rows) != steps:
            raise ValueError(f"a job has batches for {len(job.rows)} steps, not {steps}")
        records = len(job.inputs)
        # No records have no shape that matters.
        x, y = _records(job) if records > 0 else (torch.zeros(0), torch.zeros(0))
        self._prepare(tuple(x.shape[1:]) if records > 0 else None)
        rows = np.concatenate(job.rows, dtype=np.int64, casting="safe")
        bounds = np.array([0, *accumulate(map(len, job.rows))], dtype=np.int64)
        kind, noise = self._noise(job)
        addresses = (ctypes.c_void_p * steps)(*map(_at, noise)) if noise else None
        position = ctypes.c_int64()
        status = self._train(
            *(self._plan, _at(start), x.data_ptr(), y.data_ptr(), records),
            *(_at(rows), _at(bounds), addresses, kind, _at(out), ctypes.byref(position)),
        )
        row = position.value
        if status == _NO_ROW:
            raise ValueError(f"a batch has row {row} of {records} records")
        if status == _NO_CLASS:
            raise DataError(
                f"the target of record {row} is {int(y[row])}: not one of {self._classes} classes"
            )

    def _noise(self, job: Job) -> tuple[int, list[NDArray[Any]]]:
        """The draws of all steps; none where nothing is noised, or a sum is wanted without.

        A simulation's own stream gives its words, which are made normals in passing.
        """
        recipe, size = self._recipe, self._chain.size
        if recipe.clip is None or recipe.noise == 0 or recipe.summed:
            return _SILENT, []
        if job.noise is None:
            raise RuntimeError("DP-SGD has no noise source")
        if isinstance(job.noise, SimulationSource):
            return _WORDS, [job.noise.words32(size) for _ in range(recipe.steps)]
        draws = []
        for _ in range(recipe.steps):
            draw = np.ascontiguousarray(job.noise.normal32(size), dtype=np.float32)
            if draw.shape != (size,):
                raise ValueError(f"noise of shape {draw.shape}, not ({size},)")
            draws.append(draw)
        return _NORMALS, draws

    def _prepare(self, shape: Shape | None) -> None:
        """Makes the chain ready for records of a shape; for no records any will do."""
        if self._plan is not None and shape in (None, self._shape):
            return
        specs = bind(self._chain, shape) if shape is not None else []
        settings, recipe = _Settings(), self._recipe
        settings.steps, settings.size = recipe.steps, self._chain.size
        settings.summed, settings.clipped = int(recipe.summed), int(recipe.clip is not None)
        settings.chunk = recipe.physical_batch
        settings.learning_rate, settings.proximal = recipe.learning_rate, recipe.proximal
        settings.limit = MARGIN * (recipe.clip or 0.0)
        settings.denominator, settings.noise = recipe.denominator, recipe.noise
        self._classes = specs[-1].size_out if specs else 1
        inputs = math.prod(shape) if shape is not None else 1
        plan = self._new(
            *(ctypes.byref(settings), (Spec * len(specs))(*specs), len(specs)),
            *(inputs, self._classes, _at(self._chain.frozen), len(self._chain.frozen), _CACHE),
        )
        if not plan:
            raise MemoryError("the compiled engine found no memory")
        if self._free is not None:
            self._free()
        self._shape, self._plan = shape, plan
        self._free = weakref.finalize(self, self._release, plan)


def _at(array: NDArray[Any]) -> int:
    """Its address; faster than ``array.ctypes``."""
    address: int = array.__array_interface__["data"][0]
    return address


def _records(job: Job) -> tuple[Tensor, Tensor]:
    x, y = job.inputs, job.targets
    if x.dtype != torch.float32 or x.device.type != "cpu":
        raise UnsupportedError(f"inputs in {x.dtype} on {x.device.type}")
    if y.dtype != torch.int64 or y.shape != x.shape[:1]:
        raise UnsupportedError(f"targets in {y.dtype} of shape {tuple(y.shape)}")
    return x.detach().contiguous(), y.contiguous()
