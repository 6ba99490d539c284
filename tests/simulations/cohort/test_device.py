"""The cohort engine on another device than the CPU: one that is made up, and a GPU if there is one.

What a GPU alone does, its kernels and its rounding, runs here only on a machine that has one.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from elsewhere import AWAY, Elsewhere
from tiny import TINY, make_tiny
from together import MODELS, Make, furthest, jobs, records, trainer
from torch import Tensor, nn

from tacit import simulate
from tacit.client.trainer import Trainer
from tacit.privacy.errors import ConfigError
from tacit.privacy.messages import Vector
from tacit.server import runs
from tacit.server.home import Home
from tacit.server.registry import ModelRegistry
from tacit.server.store import Store
from tacit.simulations import engine as simulation
from tacit.simulations import sweep
from tacit.simulations.cohort import batched, choice
from tacit.simulations.cohort.batched import BatchedEngine, exact
from tacit.simulations.cohort.job import Job, UnsupportedError
from tacit.simulations.cohort.tape import CPU
from tacit.tasks import vector
from tacit.tasks.task import make_model

CLOSE = 1e-5
NOISY = ["privacy.record.noise_multiplier=0.7", "privacy.record.clip=0.5", "local.steps=2"]
# Unequal clients; in the second step each has its own weights.
SIZES = [(3, 5), (0, 0), (5, 7), (12, 4)]
DEVICES = [AWAY, *([torch.device("cuda")] if torch.cuda.is_available() else [])]


@dataclass
class There:
    """An engine that is called while its device is there."""

    made: BatchedEngine
    ran: set[str] = field(default_factory=set)
    name = "there"

    def updates(self, parameters: Vector, jobs: Sequence[Job]) -> list[np.ndarray | None]:
        with on(self.made.device) as there:
            found = self.made.updates(parameters, jobs)
        self.ran = set() if there is None else there.ran
        return found


@contextlib.contextmanager
def on(device: torch.device) -> Iterator[Elsewhere | None]:
    """Makes the device be there."""
    if device != AWAY:
        yield None
        return
    with Elsewhere() as there:
        yield there


def engine(make: Make, device: torch.device, *overrides: str) -> tuple[There, Trainer]:
    serial = trainer(make, *overrides)
    task, how = serial.task, choice.recipe(serial.spec, serial.plan)
    with on(device):
        made = BatchedEngine(task, make_model(task, serial.spec.seed), how, device)
    return There(made), serial


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_every_layer_equals_opacus_elsewhere(name: str, device: torch.device) -> None:
    """Nothing of the CPU gets into a pass: the device would raise."""
    make, shape, letters = MODELS[name]
    made, serial = engine(make, device, *NOISY)
    assert furthest(made, serial, lambda: jobs(shape, letters, SIZES)) < CLOSE
    if device == AWAY:
        # That it did take place there: the products, and the sums in order.
        assert {"aten.bmm.default", "aten.index_put_.default"} <= made.ran
        assert "aten.index_add_.default" not in made.ran


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize(
    "overrides",
    [
        ["privacy/record=none", "local.steps=2", "local.proximal=0.3"],
        # Clients that come again in one pass.
        [*NOISY, "local.physical_batch=3"],
        ["mechanism=skellam", "privacy.record.clip=0.5", "privacy.client=none"],
    ],
    ids=["without-dp", "in-parts", "summed"],
)
def test_every_way_to_train_elsewhere(device: torch.device, overrides: list[str]) -> None:
    for name in ("conv1d", "unknown"):
        make, shape, letters = MODELS[name]
        made, serial = engine(make, device, *overrides)
        sizes = [each[: made.made.recipe.steps] for each in SIZES]
        found = partial(jobs, shape, letters, sizes)
        assert furthest(made, serial, found) < CLOSE


class Table(nn.Module):
    """An embedding of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(7, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.table[x]


class Idle(nn.Module):
    """Has layers that it doesn't use."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.linear = nn.Embedding(7, 3), nn.Linear(3, 3)
        self.norm, self.table = nn.LayerNorm(3), Table()

    def forward(self, x: Tensor) -> Tensor:
        return self.table(x).mean(1)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_layers_that_nothing_reaches(device: torch.device) -> None:
    found = []
    for where in (CPU, device):
        made, serial = engine(Idle, where, *NOISY)
        found.append(made.updates(vector.read(serial.model), jobs((5,), True, SIZES)))
    for a, b in zip(*found, strict=True):
        assert a is not None
        assert b is not None
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


class Stray(nn.Module):
    """Keeps a tensor that doesn't move with the model."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.held = nn.Linear(6, 3), torch.ones(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x * self.held)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_tensor_that_stays_behind_is_an_error(device: torch.device) -> None:
    """The device that isn't there is as strict as one that is."""
    made, _ = engine(Stray, device, *NOISY)
    with pytest.raises(RuntimeError, match="devices"):
        made.updates(vector.read(Stray()), jobs((6,), False, SIZES))


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_letter_that_is_none_is_found_before_the_device_fails(device: torch.device) -> None:
    make, shape, letters = MODELS["attention"]
    for step in range(2):
        wrong = jobs(shape, letters, [(4, 4)])
        rows = np.setdiff1d(wrong[0].rows[step], wrong[0].rows[0] if step else [])
        wrong[0].inputs[rows] = 7
        made, serial = engine(make, device, *NOISY)
        with pytest.raises(IndexError, match="out of range"):
            made.updates(vector.read(serial.model), wrong)


FLAGS: list[Callable[[], object]] = [
    lambda: torch.backends.cuda.matmul.fp32_precision,
    lambda: torch.backends.cudnn.conv.fp32_precision,
    lambda: torch.backends.cudnn.rnn.fp32_precision,
    lambda: torch.backends.cudnn.deterministic,
    lambda: torch.backends.cudnn.benchmark,
]


def test_a_pass_is_exact_and_the_callers_settings_return(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[object]] = []
    right = BatchedEngine._pass

    def watched(self: BatchedEngine, *arguments: object) -> Tensor:
        seen.append([flag() for flag in FLAGS])
        return right(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(BatchedEngine, "_pass", watched)
    make, shape, letters = MODELS["linear"]
    before = [flag() for flag in FLAGS]
    for device in (CPU, AWAY):
        made, serial = engine(make, device, *NOISY)
        made.updates(vector.read(serial.model), jobs(shape, letters, SIZES))
    assert seen[0] == before
    assert seen[-1] == ["ieee", "ieee", "ieee", True, False]
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    try:
        with contextlib.suppress(ValueError), exact(AWAY):
            assert [flag() for flag in FLAGS] == seen[-1]
            raise ValueError
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.benchmark
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.benchmark = False


def test_passes_are_larger_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    limits, right = [], batched.packs
    monkeypatch.setattr(batched, "packs", lambda b, most: limits.append(most) or right(b, most))
    make, shape, letters = MODELS["linear"]
    for device, size in ((CPU, 1000), (AWAY, 1000), (CPU, 100)):
        made, serial = engine(make, device, "local.steps=1", f"local.physical_batch={size}")
        made.updates(vector.read(serial.model), jobs(shape, letters, [(3,)]))
    assert limits == [256, 1000, 100]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with a GPU, as far as the choice of an engine goes."""
    right = choice.device

    def there(spec: object) -> torch.device:
        return CPU if right(spec) == CPU else AWAY  # type: ignore[arg-type]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(choice, "device", there)
    monkeypatch.setattr(simulation, "device", there)
    with Elsewhere():
        yield


def test_where_a_configuration_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    def where(*overrides: str) -> str:
        return choice.device(trainer(MODELS["linear"][0], *overrides).spec).type

    for available in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: available)  # noqa: B023
        best = "cuda" if available else "cpu"
        assert [where("device=auto", f"engine={e}") for e in ("auto", "cohort")] == [best, best]
        assert [where("device=auto", f"engine={e}") for e in ("fused", "serial")] == ["cpu", "cpu"]
        assert where() == where("device=cpu") == "cpu"
    assert where("device=cuda") == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="has no CUDA device") as caught:
        where("device=cuda")
    assert "device=auto" in caught.value.hint


def test_without_a_gpu_a_run_that_asks_for_one_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="has no CUDA device"):
        simulate([*TINY, "device=cuda"], task=make_tiny(), home=tmp_path)
    assert Store(Home(tmp_path)).runs() == []


@pytest.mark.usefixtures("gpu")
def test_the_engine_of_a_machine_with_a_gpu() -> None:
    def chosen(make: Make, *overrides: str) -> tuple[str, str, str]:
        serial = trainer(make, "local.steps=2", "device=auto", *overrides)
        made, why = choice.choose(serial, serial.task, records((6,), False, 4, 0))
        on = getattr(made, "device", CPU)
        return "serial" if made is None else made.name, on.type, why

    linear = MODELS["linear"][0]
    assert chosen(linear) == ("cohort", "meta", "on meta")
    assert chosen(linear, "device=cpu") == ("fused", "cpu", "on cpu")
    assert chosen(linear, "engine=fused") == ("fused", "cpu", "on cpu")
    assert chosen(linear, "engine=serial") == ("serial", "cpu", "")
    name, where, why = chosen(Stray)
    assert (name, where) == ("cohort", "cpu")
    assert why.startswith("on cpu; cohort on meta: RuntimeError: ")
    assert "fused: " in why


def test_a_gpu_that_is_full_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory\nand much more")

    right = batched.BatchedEngine.__init__
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        batched.BatchedEngine, "__init__", lambda *a: (right if a[-1] == CPU else full)(*a)
    )
    like = records((6,), False, 4, 0)
    serial = trainer(MODELS["unknown"][0], "device=auto")
    made, why = choice.choose(serial, serial.task, like)
    assert made is not None
    assert made.name == "cohort"
    assert why.startswith("on cpu; cohort on cuda: OutOfMemoryError: CUDA out of memory; fused: ")
    serial = trainer(MODELS["unknown"][0], "device=cuda")
    with pytest.raises(ConfigError, match=r"^device=cuda can't train .*out of memory\)"):
        choice.choose(serial, serial.task, like)


def test_what_draws_on_a_gpu_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter(torch.arange(2))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: next(states))
    made, serial = engine(MODELS["linear"][0], CPU, *NOISY)
    with pytest.raises(UnsupportedError, match="draws random"):
        choice.verify(made, serial, records((6,), False, 4, 0))


@pytest.mark.parametrize("mechanism", ["central", "skellam"])
def test_a_run_on_a_gpu_makes_the_model_of_one_on_the_cpu(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
    mechanism: str,
) -> None:
    settings = [*TINY, "evaluation=none", f"mechanism={mechanism}", "engine=cohort", "device=auto"]
    made = []
    for where in ("cpu", "meta"):
        if where == "meta":
            request.getfixturevalue("gpu")
        caplog.clear()
        with caplog.at_level(logging.INFO, "tacit.engine"):
            home = Home(tmp_path / where)
            result = simulate(settings, task=make_tiny(), home=home.root)
        assert f"engine: cohort (on {where})" in caplog.text
        arrays = ModelRegistry(home, Store(home)).get(result.artifact_sha256)
        made.append(np.concatenate([arrays[name].ravel() for name in sorted(arrays)]))
        assert "trained alone" not in caplog.text
    np.testing.assert_allclose(made[1], made[0], rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("gpu")
def test_a_process_with_a_gpu_is_not_forked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"workers=2 .* a GPU"):
        simulate([*TINY, "device=auto"], task=make_tiny(), home=tmp_path / "a", workers=2)
    for settings in ([], ["device=auto", "engine=fused"]):
        simulate([*TINY, "rounds=1", *settings], task=make_tiny(), home=tmp_path / "b", workers=2)


def test_a_run_of_before_there_were_devices_goes_on_on_the_cpu(tmp_path: Path) -> None:
    result = simulate([*TINY, "rounds=1", "device=auto"], task=make_tiny(), home=tmp_path)
    row = Store(Home(tmp_path)).run(result.run)
    spec = json.loads(row["spec"])
    assert runs.spec_of(row).device == spec.pop("device") == "auto"
    assert runs.spec_of({**row, "spec": json.dumps(spec)}).device == "cpu"


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("setting", ["device=auto", "threads=2"])
def test_a_sweep_of_what_can_not_be_forked_stays_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    def forks(*_: object) -> None:
        raise AssertionError("a pool")

    monkeypatch.setattr(sweep, "Pool", forks)
    line = ["experiment=digits", "model=pixels", "rounds=1"]
    lines = [[*line, setting, f"seed={k}"] for k in (0, 1)]
    _, results = sweep.run_all(lines, str(tmp_path), workers=2)
    assert len(results) == 2
    with pytest.raises(AssertionError, match="a pool"):
        sweep.run_all([line, line], str(tmp_path), workers=2)
