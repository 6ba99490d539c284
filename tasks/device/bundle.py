"""All that a device needs of a run: the run document, and the graphs it names.

Guarantees: graphs are checked beside Opacus and torch as they are made, and equal tasks, specs
and names give equal bytes with equal versions of torch and onnxscript, in any process; so a
coordinator that is started again serves the document it served before, and nothing has to be
kept. A step takes seconds to export (`benchmarks/device_step.py` says how many).

A call has one row unless more are asked for: a device runs one record a call, so that what a
record adds depends on no other and is clipped on the device (`tacit.client.edge.steps`). Rows
beside it would only cost time; and no record has another row to stand in.

Only shape and type of records are used, and of the public test set where the task has one.
The document isn't signed here: `RunDocument.encode` takes the coordinator's key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tacit.configs.planning import local_steps
from tacit.configs.spec import RunSpec
from tacit.privacy.errors import DataError
from tacit.protocol.document import RunDocument, Training
from tacit.protocol.manifest import DeviceGraph
from tacit.tasks import vector
from tacit.tasks.device.evaluation import export_device_evaluation
from tacit.tasks.device.graph import export_device_step
from tacit.tasks.task import Task, make_model, plan, tensors

# Clients whose records are looked at for a shape where there is no test set.
_LOOKS = 16


@dataclass(frozen=True, kw_only=True)
class DeviceBundle:
    """A run for devices.

    Attributes:
        document: not yet signed.
        blobs: the graphs, by SHA-256 in hex.
    """

    document: RunDocument
    blobs: Mapping[str, bytes]


def build(
    task: Task, spec: RunSpec, run: str, population: str, microbatch: int = 1
) -> DeviceBundle:
    """Exports a run for devices.

    Args:
        task: what is trained.
        spec: of the run.
        run: its identifier, as its messages carry it.
        population: whose clients it is for.
        microbatch: rows of a step's call, of which a device fills one.

    Raises:
        ConfigError: the spec makes no plan, or a name or size can't be.
        DataError: no records say what shape they have.
        ModelError: an operator, named, can't run on a device; or a graph isn't right.
    """
    promised = plan(task, spec)
    step, evaluation, frozen = exported(task, spec, microbatch)
    unit, local = promised.record, spec.local
    document = RunDocument(
        run=run,
        population=population,
        plan=promised,
        training=Training(
            learning_rate=local.learning_rate,
            proximal=local.proximal,
            steps=local_steps(spec) if unit is None else None,
            sampling_rate=spec.privacy.record.sampling_rate if unit is None else None,
        ),
        frozen=frozen,
        step=step.manifest,
        evaluation=evaluation.manifest if evaluation else None,
    )
    made = [step, *([evaluation] if evaluation else [])]
    return DeviceBundle(document=document, blobs={m.manifest.graph: m.graph for m in made})


def exported(
    task: Task, spec: RunSpec, microbatch: int = 1
) -> tuple[DeviceGraph, DeviceGraph | None, str]:
    """The graphs of a run, and the digest of what isn't trained.

    Args:
        task: as of `build`, as are the other two.
        spec: of the run.
        microbatch: of the step.

    Returns:
        The step; the evaluation, where the run has a federated one; and
        `tacit.tasks.vector.frozen_digest`, in hex.
    """
    model, like = make_model(task, spec.seed), shapes(task, spec)
    step, evaluation = export_device_step(task, model, like, microbatch), None
    if spec.evaluation.kind == "federated":
        evaluation = export_device_evaluation(task, model, like, 1)
    return step, evaluation, vector.frozen_digest(model)


def shapes(task: Task, spec: RunSpec) -> tuple[Tensor, Tensor]:
    """A few records, for their shape and type: of the test set, else of a client that has some.

    Raises:
        DataError: there are none.
    """
    if task.test is not None:
        inputs, targets = tensors(task.test(), "the test set")
        if len(inputs) > 0:
            return inputs[:1], targets[:1]
    for client in range(min(spec.clients, _LOOKS)):
        inputs, targets = tensors(task.data(client), f"client {client}")
        if len(inputs) > 0:
            return inputs[:1], targets[:1]
    raise DataError(
        f"task {task.name} has no records here that say what shape they have",
        "give it a public test set: Task(test=...)",
    )
