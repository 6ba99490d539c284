"""Device graphs against what a stranger would try: sizes, values, threads, types, files."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from tacit.privacy.errors import ModelError
from tacit.privacy.mechanisms import MARGIN
from tacit.protocol.manifest import OPSET, DeviceGraph
from tacit.tasks import vector
from tacit.tasks.device import check, graph, operators
from tacit.tasks.task import Task

LABELS = torch.zeros(1, dtype=torch.int64)


def task(loss: object = nn.functional.cross_entropy) -> Task:
    return Task(name="made-up", model=nn.Identity, data=lambda _: (LABELS, LABELS), loss=loss)  # type: ignore[arg-type]


def summed(
    step: DeviceGraph,
    parameters: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    mask: np.ndarray,
    clip: float,
    threads: int = 1,
) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    runtime = onnxruntime.InferenceSession(step.graph, options, providers=["CPUExecutionProvider"])
    feeds = (parameters, x, y, mask, np.array(clip, dtype=np.float32))
    return check.run(runtime, step.manifest, *feeds)[0]


def length(row: np.ndarray) -> float:
    """The L2 norm, with no more than a double's rounding."""
    return math.sqrt(math.fsum((row * row).tolist()))


WIDE = 30_000


@pytest.fixture(scope="module")
def wide() -> tuple[nn.Module, DeviceGraph]:
    model = nn.Linear(WIDE, 10, bias=False)
    nn.init.zeros_(model.weight)
    return model, graph.export_device_step(task(), model, (torch.zeros(1, WIDE), LABELS), 2)


@pytest.mark.parametrize("threads", [1, 4])
def test_no_long_row_is_longer_than_the_clip(
    wide: tuple[nn.Module, DeviceGraph], threads: int
) -> None:
    """Equal squares added in single precision all round one way: onnxruntime's
    norm was off by 2e-4 at this size, by 8e-4 of a million numbers."""
    model, step = wide
    mask, y = np.array([True, False]), np.zeros(2, dtype=np.int64)
    for value in np.random.default_rng(0).uniform(0.5, 2.0, 6):
        x = np.full((2, WIDE), value, dtype=np.float32)
        norm = length(summed(step, vector.read(model), x, y, mask, 1.0, threads))
        assert norm <= 1.0
        assert norm == pytest.approx(MARGIN, rel=1e-9)


def test_a_row_more_moves_the_computed_sum_by_less_than_the_clip() -> None:
    """Not only the exact one: rounding of the sum is inside the margin."""
    torch.manual_seed(0)
    model, rows = nn.Linear(20, 4), 64
    step = graph.export_device_step(task(), model, (torch.zeros(1, 20), LABELS), rows)
    rng = np.random.default_rng(0)
    # Every row longer than the clip, and all alike: the sum is as long as it can be.
    x = (1e3 * rng.uniform(0.9, 1.1, (rows, 20))).astype(np.float32)
    y, clip = np.zeros(rows, dtype=np.int64), float(np.float32(0.1))
    start = vector.moved(model)
    whole = summed(step, start, x, y, np.ones(rows, dtype=bool), clip)
    for out in range(rows):
        less = summed(step, start, x, y, np.arange(rows) != out, clip)
        assert length(whole - less) <= clip


@pytest.fixture(scope="module")
def small() -> tuple[nn.Module, DeviceGraph]:
    model = nn.Linear(3, 2)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model, graph.export_device_step(task(), model, (torch.zeros(1, 3), LABELS), 1)


def one(small: tuple[nn.Module, DeviceGraph], value: float, clip: float = 1.0) -> np.ndarray:
    x = np.full((1, 3), value, dtype=np.float32)
    y, mask = np.zeros(1, dtype=np.int64), np.ones(1, dtype=bool)
    return summed(small[1], vector.read(small[0]), x, y, mask, clip)


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-40, 1e-20, 1.0, 1e10, 1e18])
@pytest.mark.parametrize("clip", [1e-45, 1e-40, 1e-6, 1.0, 3e38])
def test_a_row_of_any_size_keeps_to_the_clip(
    small: tuple[nn.Module, DeviceGraph], value: float, clip: float
) -> None:
    made = one(small, value, clip)
    assert np.isfinite(made).all()
    assert length(made) <= float(np.float32(clip))
    if clip == 3e38:
        # Unclipped: half of each input, subnormal or not, and of the bias.
        want = [-0.5 * float(np.float32(value))] * 3 + [0.5 * float(np.float32(value))] * 3
        np.testing.assert_allclose(made[:6], want, rtol=1e-6, atol=1e-45)


@pytest.mark.parametrize("value", [1e20, 3e38, float("inf"), float("nan")])
def test_a_row_whose_square_overflows_counts_for_nothing(
    small: tuple[nn.Module, DeviceGraph], value: float
) -> None:
    """As in the trainer, whose squares are in single precision."""
    assert not one(small, value).any()


class Words(nn.Module):
    """A large table, most of it unused."""

    def __init__(self, padding: int | None = None) -> None:
        super().__init__()
        self.table = nn.Embedding(20_000, 8, padding_idx=padding)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.table(x).mean(1))
        return out


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_a_large_vocabulary_in_either_integer(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Words()
    like = (torch.zeros(1, 6, dtype=dtype), torch.zeros(1, dtype=dtype))
    whole = task(lambda o, t: nn.functional.cross_entropy(o, t.long()))
    step = graph.export_device_step(whole, model, like, 2)
    x = np.array([[5, 5, 5, 5, 5, 0], [19_999, 7, 7, 1, 0, 0]])
    y = np.array([1, 2])
    x, y = x.astype(str(dtype).removeprefix("torch.")), y.astype(str(dtype).removeprefix("torch."))
    parameters, clip = vector.read(model), 3e38
    made = summed(step, parameters, x, y, np.ones(2, dtype=bool), clip)
    model.zero_grad()
    for i in range(2):
        loss = whole.loss(model(torch.from_numpy(x[i : i + 1])), torch.from_numpy(y[i : i + 1]))
        torch.autograd.backward(loss)
    want = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
    np.testing.assert_allclose(made, want.double().numpy(), rtol=1e-5, atol=1e-7)
    # A word that isn't there says so; it doesn't read beyond the table.
    x[0, 0] = 20_000
    with pytest.raises(ModelError, match="can't run"):
        summed(step, parameters, x, y, np.ones(2, dtype=bool), clip)
    masked = summed(step, parameters, x, y, np.array([False, True]), clip)
    assert np.isfinite(masked).all()


def test_a_word_that_is_padding_is_refused_where_opacus_trains_it() -> None:
    """Opacus 1.6 gives it gradients, torch and the graph don't; the trainer refuses it too."""
    like = (torch.zeros(1, 6, dtype=torch.int64), LABELS)
    with pytest.raises(ModelError, match=r"table\.weight differ from Opacus"):
        graph.export_device_step(task(), Words(0), like, 2)


def test_every_row_masked_is_nothing_though_all_are_poison(
    wide: tuple[nn.Module, DeviceGraph],
) -> None:
    model, step = wide
    x = np.full((2, WIDE), np.nan, dtype=np.float32)
    y = np.full(2, np.iinfo(np.int64).max)
    assert not summed(step, vector.read(model), x, y, np.zeros(2, dtype=bool), 1.0).any()


def test_a_graph_that_reads_a_file_is_refused(small: tuple[nn.Module, DeviceGraph]) -> None:
    """Onnxruntime would open the path beside the model, or in the working directory."""
    proto = onnx.load_from_string(small[1].graph)
    assert operators.check(proto) == small[1].manifest.operators
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    proto.graph.initializer.append(tensor)
    with pytest.raises(ModelError, match="in a file"):
        operators.check(proto)
    node = helper.make_node("Constant", [], ["w"], value=tensor)
    opset = [helper.make_opsetid("", OPSET)]
    inner = helper.make_model(helper.make_graph([node], "g", [], []), opset_imports=opset)
    with pytest.raises(ModelError, match="in a file"):
        operators.check(inner)


def test_a_graph_within_a_graph_is_refused() -> None:
    body = helper.make_graph([], "inner", [], [])
    node = helper.make_node("Identity", ["a"], ["b"], body=body)
    opset = [helper.make_opsetid("", OPSET)]
    proto = helper.make_model(helper.make_graph([node], "g", [], []), opset_imports=opset)
    with pytest.raises(ModelError, match="operator Identity"):
        operators.check(proto)
