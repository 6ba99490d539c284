"""Run documents, and what a device's training makes of them, as golden vectors.

The numbers of a step are those of the exported graph in onnxruntime, of a linear model with its
inputs scaled; documents name made-up graphs, so that they don't change with an exporter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit import Task
from tacit.client.edge import steps
from tacit.client.edge.data import Records
from tacit.client.edge.runtime import Graph
from tacit.configs.build import compose
from tacit.privacy.secagg.keys import Identity, derive
from tacit.protocol.document import RunDocument
from tacit.protocol.manifest import Manifest
from tacit.tasks.device.bundle import build
from tacit.tasks.models import linear

SCALE, FEATURES, CLASSES, RECORDS = 0.5, 6, 3, 9
COORDINATOR = Identity(derive("vectors", b"coordinator"))
SETTINGS = [
    "experiment=none",
    "clients=6",
    "cohort=6",
    "minimum_survivors=4",
    "secure.collusion=1",
    "secure.dropout=0.2",
    "seed=null",
    "rounds=3",
    "attempts=1",
    "mechanism=skellam",
    "aggregation=secure",
    "secure.protocol=full",
    "evaluation=federated",
    # All records in all steps and no noise, so that an update is a function of the records.
    "privacy.record.noise_multiplier=0",
    "privacy.record.sampling_rate=1",
    "privacy.record.clip=0.7",
    "local.learning_rate=0.25",
]
KINDS = {
    "both units": ["privacy.client.noise_multiplier=1.0", "local.steps=3", "local.proximal=0.1"],
    "records by shares": ["privacy.client=none", "local.steps=1"],
}

Reals = Callable[[str, int], NDArray[np.float64]]


def _task(reals: Reals) -> tuple[Task, Records]:
    inputs = 4 * reals("records", RECORDS * FEATURES).reshape(RECORDS, FEATURES)
    inputs = inputs.astype(np.float32)
    targets = np.arange(RECORDS, dtype=np.int64) % CLASSES
    task = Task(
        name="vectors",
        model=lambda: linear(FEATURES, CLASSES, SCALE),
        data=lambda _: (inputs, targets),
        examples_per_client=RECORDS,
    )
    return task, Records(inputs, targets)


def _made_up(manifest: Manifest, name: str) -> Manifest:
    """The manifest of another graph, of which there are no bytes."""
    graph = derive("vectors", name.encode()).hex()
    return dataclasses.replace(manifest, graph=graph, graph_bytes=7, operators=("Add",))


def _named(document: RunDocument) -> RunDocument:
    assert document.evaluation is not None
    step, evaluation = (
        _made_up(manifest, name)
        for manifest, name in ((document.step, "step"), (document.evaluation, "evaluation"))
    )
    return dataclasses.replace(document, step=step, evaluation=evaluation)


def trained(reals: Reals) -> dict[str, Any]:
    """`tacit.protocol.document` and `tacit.client.edge.steps`."""
    task, records = _task(reals)
    parameters = reals("parameters", CLASSES * (FEATURES + 1)).astype(np.float32)
    made = build(task, compose(SETTINGS + KINDS["both units"]), "run-1", "phones")
    step = Graph(made.blobs[made.document.step.graph], made.document.step)
    assert made.document.evaluation is not None
    scoring = made.document.evaluation
    evaluation = Graph(made.blobs[scoring.graph], scoring)
    bad = records.inputs.copy()
    bad[4, 2], bad[7, 0] = np.nan, np.inf
    spoilt = Records(bad, records.targets)
    some = np.array([0, 1, 4, 5, 7, 8])
    rows = [np.arange(RECORDS)]
    alone = [evaluation.alone(bad[i], records.targets[i]) for i in range(RECORDS)]
    scores = [evaluation.run({"parameters": parameters, **one}) for one in alone]
    return {
        "coordinator": COORDINATOR.public.hex(),
        "scale": SCALE,
        "classes": CLASSES,
        "features": FEATURES,
        "parameters": parameters.tolist(),
        "inputs": records.inputs.reshape(-1).tolist(),
        "targets": records.targets.tolist(),
        "sum": steps.summed(step, parameters, records, rows[0], 0.7).tolist(),
        "loose": steps.summed(step, parameters, records, rows[0], 1000.0).tolist(),
        "spoilt": {"nan": [4, 2], "infinite": [7, 0], "rows": some.tolist()},
        "spoilt_sum": steps.summed(step, parameters, spoilt, some, 0.7).tolist(),
        "spoilt_scores": [float(made["score"][0]) for made in scores],
        "spoilt_losses": [float(made["loss"][0]) for made in scores],
        "runs": [_run(task, name, step, evaluation, parameters, records) for name in KINDS],
    }


def _run(
    task: Task, name: str, step: Graph, evaluation: Graph, parameters: Any, records: Records
) -> dict[str, Any]:
    document = build(task, compose(SETTINGS + KINDS[name]), "run-1", "phones").document
    unit = document.plan.record
    assert unit is not None
    rows = [np.arange(RECORDS)] * unit.steps
    named = _named(document)
    counts = steps.counts(document.plan, evaluation, parameters, records)
    return {
        "name": name,
        "document": named.encode(COORDINATOR).hex(),
        "plan": document.plan.digest(),
        "update": [float(v) for v in steps.update(document, step, parameters, records, rows)],
        "counts": [float(v) for v in counts],
    }
