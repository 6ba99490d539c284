"""`tacit.tasks.device.graph`: every kind of model, beside Opacus, in real onnxruntime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from onnx import helper
from opacus.layers import DPLSTM, DPMultiheadAttention
from torch import Tensor, nn

from tacit.privacy.errors import ConfigError, ModelError
from tacit.privacy.mechanisms import MARGIN
from tacit.protocol.manifest import DeviceGraph
from tacit.tasks import vector
from tacit.tasks.device import check, graph, operators
from tacit.tasks.task import Task

ROWS = 5


class Recurrent(nn.Module):
    """Characters through Opacus's LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(11, 6), DPLSTM(6, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(x))[0][:, -1])


class Block(nn.Module):
    """A transformer's encoder block on Opacus's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attend = nn.Embedding(11, 8), DPMultiheadAttention(8, 2, batch_first=True)
        self.first, self.second = nn.LayerNorm(8), nn.LayerNorm(8)
        self.wide = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = self.first(x + self.attend(x, x, x, need_weights=False)[0])
        return self.head(self.second(x + self.wide(x)).mean(1))


def image_cnn() -> nn.Module:
    """Overlapping pools, odd sizes, strides, paddings and a dilation."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
        nn.Conv2d(6, 4, (3, 2), stride=2, dilation=(1, 2), padding=(0, 1)),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
        nn.LazyLinear(3),
    )


def norm_cnn() -> nn.Module:
    """GroupNorm, groups of channels, average pools."""
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.GroupNorm(4, 8),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(8, 8, 3, groups=2, bias=False),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 3))
    return model.requires_grad_(False).append(nn.Linear(3, 3))


FLAT, WORDS = torch.zeros(1, 7), torch.zeros(1, 6, dtype=torch.int64)
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "logistic": (lambda: nn.Linear(7, 3), FLAT),
    "mlp": (lambda: nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 3)), FLAT),
    "layernorm": (
        lambda: nn.Sequential(nn.Linear(7, 9), nn.LayerNorm(9), nn.Tanh(), nn.Linear(9, 3)),
        FLAT,
    ),
    "embedding": (
        lambda: nn.Sequential(nn.Embedding(11, 4), nn.Flatten(), nn.Linear(24, 3)),
        WORDS,
    ),
    "cnn": (image_cnn, torch.zeros(1, 1, 13, 14)),
    "groupnorm": (norm_cnn, torch.zeros(1, 2, 10, 10)),
    "conv1d": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)
        ),
        torch.zeros(1, 2, 7),
    ),
    "frozen": (frozen, FLAT),
    "lstm": (Recurrent, WORDS),
    "attention": (Block, WORDS),
}


def task(make: Callable[[], nn.Module] = nn.Identity, **more: object) -> Task:
    return Task(name="made-up", model=make, data=lambda _: (FLAT, FLAT), **more)  # type: ignore[arg-type]


def built(make: Callable[[], nn.Module], like: Tensor) -> nn.Module:
    torch.manual_seed(0)
    model = make()
    model(like)
    return model


LABELS = torch.zeros(1, dtype=torch.int64)


@pytest.mark.parametrize("name", MODELS)
def test_a_models_step_is_opacuss(name: str) -> None:
    make, like = MODELS[name]
    model = built(make, like)
    before = vector.read(model)
    step = graph.export_device_step(task(), model, (like, LABELS), ROWS)
    error = check.verify(step, task(), model, (like, LABELS))
    assert error <= 1e-6
    assert len(step.graph) < 64 * 1024
    assert step.manifest.size == len(before)
    np.testing.assert_array_equal(vector.read(model), before)


def run(
    step: DeviceGraph, model: nn.Module, x: Tensor, mask: list[bool], clip: float
) -> np.ndarray:
    feeds = {
        "parameters": vector.read(model),
        "inputs": x.numpy(),
        "targets": np.zeros(len(x), dtype=np.int64),
        "mask": np.array(mask),
        "clip": np.array(clip, dtype=np.float32),
    }
    return check.session(step).run(["sum"], feeds)[0]


@pytest.fixture(scope="module")
def logistic() -> tuple[nn.Module, DeviceGraph]:
    model = built(*MODELS["logistic"])
    return model, graph.export_device_step(task(), model, (FLAT, LABELS), ROWS)


def test_the_margin_is_in_the_graph(logistic: tuple[nn.Module, DeviceGraph]) -> None:
    model, step = logistic
    made = run(step, model, torch.rand(ROWS, 7), [True] + [False] * 4, 2.0**-10)
    norm = float(np.linalg.norm(made.astype(np.float64)))
    # The exporter's optimiser would make it 2^-10, give or take a rounding.
    assert norm == pytest.approx(MARGIN * 2.0**-10, rel=2.0**-22)


def test_a_masked_row_adds_exactly_nothing(logistic: tuple[nn.Module, DeviceGraph]) -> None:
    model, step = logistic
    x, mask = torch.rand(ROWS, 7), [True, True, False, True, True]
    want = run(step, model, x, mask, 0.1)
    for value in (float("nan"), float("inf"), 3e38):
        x[2] = value
        np.testing.assert_array_equal(run(step, model, x, mask, 0.1), want)
    assert not run(step, model, x, [False] * ROWS, 0.1).any()


def test_a_row_that_is_not_finite_counts_as_zero(logistic: tuple[nn.Module, DeviceGraph]) -> None:
    model, step = logistic
    x = torch.rand(ROWS, 7)
    want = run(step, model, x, [True] * 4 + [False], 0.1)
    # 3e38 is finite, and its gradient's norm isn't.
    for value in (float("nan"), float("-inf"), 3e38):
        x[4, 3] = value
        np.testing.assert_array_equal(run(step, model, x, [True] * ROWS, 0.1), want)


def test_an_export_is_the_same_twice_and_fits_its_manifest(
    logistic: tuple[nn.Module, DeviceGraph],
) -> None:
    model, step = logistic
    again = graph.export_device_step(task(), model, (FLAT, LABELS), ROWS)
    assert again == step
    assert [p.name for p in step.manifest.parameters] == ["weight", "bias"]
    assert [i.shape for i in step.manifest.inputs] == [(24,), (ROWS, 7), (ROWS,), (ROWS,), ()]
    assert set(step.manifest.operators) <= operators.OPERATORS


class Bessel(nn.Linear):
    """An operator that ONNX Runtime hasn't."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.special.bessel_j0(x).mean()


@pytest.mark.parametrize(
    ("make", "like", "said"),
    [
        (lambda: Bessel(7, 3), FLAT, "operator prims.bessel_j0 can't"),
        (lambda: nn.Sequential(nn.Dropout(), nn.Linear(7, 3)), FLAT, "draws random numbers"),
        (
            lambda: nn.Sequential(nn.ConvTranspose1d(2, 1, 3), nn.Flatten(), nn.Linear(9, 3)),
            torch.zeros(1, 2, 7),
            "operator aten.convolution_backward of a transposed",
        ),
        (
            lambda: nn.Sequential(
                nn.Conv2d(1, 2, 2), nn.AvgPool2d(2, ceil_mode=True), nn.Flatten(), nn.Linear(8, 3)
            ),
            torch.zeros(1, 1, 4, 4),
            "operator aten.avg_pool2d_backward can't",
        ),
    ],
)
def test_what_no_device_runs_is_refused_by_name(
    make: Callable[[], nn.Module], like: Tensor, said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        graph.export_device_step(task(), built(make, like), (like, LABELS), ROWS)


@pytest.mark.parametrize(
    ("op", "domain", "said"),
    [("Attend", "com.microsoft", "com.microsoft.Attend"), ("If", "", "operator If")],
)
def test_an_operator_off_the_list_is_refused(op: str, domain: str, said: str) -> None:
    node = helper.make_node(op, ["a"], ["b"], domain=domain)
    proto = helper.make_model(helper.make_graph([node], "g", [], []))
    with pytest.raises(ModelError, match=said):
        operators.check(proto)


def test_another_opset_is_refused() -> None:
    proto = helper.make_model(
        helper.make_graph([], "g", [], []), opset_imports=[helper.make_opsetid("", 19)]
    )
    with pytest.raises(ModelError, match="opset="):
        operators.check(proto)


def test_a_microbatch_has_a_row() -> None:
    with pytest.raises(ConfigError, match="microbatch=0"):
        graph.export_device_step(task(), nn.Linear(7, 3), (FLAT, LABELS), 0)
