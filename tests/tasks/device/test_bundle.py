"""`tacit.tasks.device.bundle`: all of a run for devices, the same bytes in any process."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tacit.client.trainer import Trainer
from tacit.configs.build import compose
from tacit.privacy.errors import DataError
from tacit.privacy.secagg.keys import Identity
from tacit.protocol.document import decode
from tacit.tasks import task as tasks
from tacit.tasks.device import bundle
from tacit.tasks.task import Task

KEY = Identity.from_bytes(bytes(range(32)))


def test_a_run_is_as_its_trainers_have_it(tiny: Callable[..., Task], overrides: list[str]) -> None:
    spec = compose([*overrides, "evaluation=federated", "local.proximal=0.5"])
    made = bundle.build(tiny(), spec, "r1", "people")
    held = decode(made.document.encode(KEY), KEY.public)
    plan = tasks.plan(tiny(), spec)
    assert (held.run, held.population, held.plan.digest()) == ("r1", "people", plan.digest())
    assert held.frozen == Trainer(tiny(), spec, plan).frozen
    assert (held.training.learning_rate, held.training.proximal) == (spec.local.learning_rate, 0.5)
    assert held.training.steps is None
    assert held.evaluation is not None
    assert set(made.blobs) == {held.step.graph, held.evaluation.graph} == set(held.graphs)
    held.step.check(made.blobs[held.step.graph])


def test_a_plan_without_records_says_steps_and_rate(
    tiny: Callable[..., Task], overrides: list[str]
) -> None:
    kept = [o for o in overrides if not o.startswith("privacy.record")]
    bare = [*kept, "privacy.record=none", "local.steps=3", "evaluation=none"]
    # Where records aren't noised the batch is still drawn.
    made = bundle.build(tiny(), compose(bare), "r1", "people", microbatch=3).document
    assert (made.training.steps, made.training.sampling_rate) == (3, 1.0)
    assert (made.step.microbatch, made.evaluation) == (3, None)


def test_a_device_is_given_one_record_a_call(
    tiny: Callable[..., Task], overrides: list[str]
) -> None:
    spec = compose([*overrides, "evaluation=federated"])
    held = bundle.build(tiny(), spec, "r1", "people").document
    assert held.evaluation is not None
    assert held.step.microbatch == held.evaluation.microbatch == 1


def test_shapes_are_of_the_test_set_or_of_a_client_with_records(
    tiny: Callable[..., Task], overrides: list[str]
) -> None:
    spec = compose(overrides)

    def never(client: int) -> tuple[object, object]:
        raise AssertionError(client)

    public = dataclasses.replace(tiny(), data=never)
    assert bundle.shapes(public, spec)[0].shape == (1, 4)
    private = tiny(test=False)
    late = dataclasses.replace(private, data=lambda k: private.data(k) if k > 2 else ([], []))
    assert bundle.shapes(late, spec)[0].shape == (1, 4)
    empty = dataclasses.replace(private, data=lambda _: ([], []))
    with pytest.raises(DataError, match="what shape"):
        bundle.shapes(empty, spec)


CODE = """
from tiny import TINY, make_tiny
from tacit.configs.build import compose
from tacit.tasks.device.bundle import build
made = build(make_tiny(), compose([*TINY, "evaluation=federated"]), "r1", "people")
print(made.document.to_json().hex(), *sorted(made.blobs))
"""


def test_another_process_makes_the_same_bytes() -> None:
    """A coordinator that starts again serves what it served."""
    said = [
        subprocess.run(
            [sys.executable, "-c", CODE],
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1] != ""
