"""Which engine trains a model, and that it is right: checked against Opacus before it is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tacit.client.trainer import Trainer
from tacit.configs.planning import local_steps
from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ConfigError
from tacit.privacy.messages import Vector
from tacit.privacy.noise import Singles
from tacit.privacy.plan import PrivacyPlan
from tacit.simulations.cohort.batched import BatchedEngine
from tacit.simulations.cohort.job import Engine, Job, Recipe, UnsupportedError
from tacit.simulations.cohort.tape import CPU
from tacit.tasks import vector
from tacit.tasks.task import Task, make_model

# Batches of the made-up clients of a check: none, one, two that share a pass, more.
_SIZES = (0, 1, 4, 4, 11)
_TOLERANCE = 1e-4


class _Silence:
    """No noise, which would hide what is wrong."""

    name = "silence"

    def normal32(self, size: int) -> Singles:
        return np.zeros(size, dtype=np.float32)


def recipe(spec: RunSpec, plan: PrivacyPlan) -> Recipe:
    """How a run's clients train."""
    unit, shares = plan.record, plan.noised_by_shares()
    z = 0.0 if unit is None or shares else unit.noise_multiplier
    return Recipe(
        steps=local_steps(spec),
        learning_rate=spec.local.learning_rate,
        proximal=spec.local.proximal,
        clip=None if unit is None else unit.clip,
        denominator=1.0 if unit is None else unit.denominator,
        noise=0.0 if unit is None else z * unit.clip,
        summed=shares,
        physical_batch=spec.local.physical_batch,
    )


def device(spec: RunSpec) -> torch.device:
    """Where a configuration has clients trained, as far as an engine can.

    Raises:
        ConfigError: it asks for a GPU, and torch has none.
    """
    if spec.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device=cuda, and torch {torch.__version__} has no CUDA device that it can use",
            "install a torch with CUDA and a driver for it, or set device=auto or device=cpu",
        )
    gpu = spec.device != "cpu" and spec.engine in ("auto", "cohort")
    return torch.device("cuda") if gpu and torch.cuda.is_available() else CPU


def choose(trainer: Trainer, task: Task, like: tuple[Tensor, Tensor]) -> tuple[Engine | None, str]:
    """The engine for a trainer's clients.

    Args:
        trainer: the serial one, which an engine must equal.
        task: whose model and loss.
        like: some records; only their shape and type are used.

    Returns:
        The engine, None for the serial one; and for people the device, why no faster one was
        taken, and which layers take the slower way.

    Raises:
        ConfigError: the configuration asks for an engine, or a device, that can't train this
            model.
    """
    spec = trainer.spec
    reasons = []
    for name, on in _ways(spec):
        way = name if on.type == "cpu" else f"{name} on {on.type}"
        try:
            made = _made(name, trainer, task, on)
            verify(made, trainer, like)
        except UnsupportedError as error:
            reasons.append(f"{way}: {error}")
            continue
        generic = sorted(set(made.generic)) if isinstance(made, BatchedEngine) else []
        if generic:
            reasons.append(f"{way}: {', '.join(generic)} by the slower way of any module")
        return made, "; ".join([f"on {on.type}", *reasons])
    asked = [
        f"{key}={value}"
        for key, value in (("engine", spec.engine), ("device", spec.device))
        if value not in ("auto", "serial", "cpu")
    ]
    if asked:
        raise ConfigError(
            f"{' '.join(asked)} can't train this model ({'; '.join(reasons)})",
            "use engine=auto and device=auto, which take the fastest that can",
        )
    return None, "; ".join(reasons)


def _ways(spec: RunSpec) -> list[tuple[str, torch.device]]:
    """The engines that may be taken, and where each trains, the fastest first."""
    best = device(spec)
    ways = [("fused", CPU), ("cohort", CPU)]
    if best.type != "cpu":
        ways.insert(0, ("cohort", best))
    return [
        (name, on)
        for name, on in ways
        if spec.engine in ("auto", name) and spec.device in ("auto", on.type)
    ]


def _made(name: str, trainer: Trainer, task: Task, on: torch.device) -> Engine:
    spec = trainer.spec
    model, how = make_model(task, spec.seed), recipe(spec, trainer.plan)
    if name == "fused":
        from tacit.simulations.cohort.fused.engine import fused

        return fused(task, model, how)
    try:
        return BatchedEngine(task, model, how, on)
    except RuntimeError as error:
        # A GPU that is there may be full, or another's.
        raise UnsupportedError(_said(error)) from error


def verify(engine: Engine, trainer: Trainer, like: tuple[Tensor, Tensor]) -> None:
    """Compares an engine with the serial trainer on made-up records of unequal clients.

    Tensor by tensor, without noise, and away from the model's first parameters, whose zeros
    would hide what layers before them do.

    Args:
        engine: to be checked.
        trainer: the serial one.
        like: some records; only their shape and type are used.

    Raises:
        UnsupportedError: an update differs, or there is none.
    """
    jobs = list(_jobs(trainer, like))
    start = vector.moved(trainer.model)
    due = _due(trainer, start, jobs)
    if not np.isfinite(np.concatenate(due)).all():
        start = vector.read(trainer.model)
        due = _due(trainer, start, jobs)
    before = _generators()
    try:
        made = engine.updates(start, jobs)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError) as error:
        raise UnsupportedError(_said(error)) from error
    if not all(map(torch.equal, before, _generators())):
        raise UnsupportedError("the model draws random numbers in training")
    sizes = [p.numel() for p in trainer.model.parameters() if p.requires_grad]
    ends = np.cumsum(sizes)[:-1]
    for update, wanted in zip(made, due, strict=True):
        if update is None or update.dtype != wanted.dtype:
            raise UnsupportedError("it has no update for made-up records")
        whole = float(np.linalg.norm(wanted))
        for got, want in zip(np.split(update, ends), np.split(wanted, ends), strict=True):
            off = float(np.linalg.norm(got.astype(np.float64) - want))
            if not off <= _TOLERANCE * float(np.linalg.norm(want)) + 1e-6 * whole:
                raise UnsupportedError("its updates differ from Opacus's")


def _generators() -> list[Tensor]:
    """The states of what a forward pass could draw from."""
    states = [torch.random.get_rng_state()]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states.append(torch.cuda.get_rng_state())
    return states


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _due(trainer: Trainer, start: Vector, jobs: Sequence[Job]) -> list[NDArray[Any]]:
    """What the serial trainer makes of jobs."""
    return [
        trainer.steps(start, job.inputs, job.targets, job.rows, _Silence())  # type: ignore[arg-type]
        for job in jobs
    ]


def _jobs(trainer: Trainer, like: tuple[Tensor, Tensor]) -> Iterator[Job]:
    """Clients with made-up records."""
    generator = torch.Generator().manual_seed(1)
    x, y = like
    for size in _SIZES:
        inputs = _made_up(x, size, generator)
        targets = _made_up(y, size, generator)
        steps = range(local_steps(trainer.spec))
        rows = [np.arange(size, dtype=np.int64)[: max(0, size - step)] for step in steps]
        yield Job(inputs, targets, rows, _Silence())


def _made_up(like: Tensor, size: int, generator: torch.Generator) -> Tensor:
    shape = (size, *like.shape[1:])
    if not like.is_floating_point():
        # Whole numbers are labels or indices; only 0 and 1 are known to be allowed.
        return torch.randint(0, 2, shape, generator=generator).to(like.dtype)
    made = torch.rand(shape, generator=generator).to(like.dtype)
    if made.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last):
        made = made.contiguous(memory_format=torch.channels_last)
    return made
