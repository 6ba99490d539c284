"""Device graphs: error, bytes and seconds of a step beside Opacus's, one thread.

For each model: parameters; seconds of its export, the check beside Opacus in it; bytes of the
graph; the largest relative error of a clipped sum beside Opacus's per-example gradients, over
full, short and poisoned batches, three clips and two models; milliseconds of one call of
onnxruntime on 16 records, and of Opacus's forward pass, backward pass, clipping and sum on the
same (`tacit.client.dpsgd`, what a silo runs); and by how much a record's clipped gradient
moves when it stands in another row among others, which no proof bounds.

The other table is of onnxruntime's own sum of squares in single precision, which the graph
doesn't use: by how much it makes the norm of d equal numbers too small, at most, beside the
margin that clipping leaves.

The last figure is a device's own pass (`tacit.client.edge.steps.summed`): one record a call, each
clipped by the device, 239 records of the digits task.

Models and records are made up from seed 0. Times are of the
processor, one thread, so that others on the machine disturb less: the least of five medians.

Run: python benchmarks/device_step.py [--rows 16] [--json]
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import torch
from common import machine, one_thread, show
from onnx import TensorProto, helper
from opacus.grad_sample import GradSampleModule
from opacus.layers import DPMultiheadAttention
from torch import Tensor, nn

from tacit.client.dpsgd import NoisyOptimizer
from tacit.client.edge import steps
from tacit.client.edge.data import Records
from tacit.client.edge.runtime import Graph
from tacit.configs.build import compose
from tacit.privacy.mechanisms import MARGIN
from tacit.privacy.units import RecordUnit
from tacit.protocol.manifest import DeviceGraph
from tacit.tasks import models, vector
from tacit.tasks.device import check
from tacit.tasks.device.bundle import exported
from tacit.tasks.device.graph import export_device_step
from tacit.tasks.task import Task, load, make_model, tensors

CLIP = 0.1


class Transformer(nn.Module):
    """One encoder block of width 32 on Opacus's attention, over 24 symbols of 64."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attend = (
            nn.Embedding(64, 32),
            DPMultiheadAttention(32, 4, batch_first=True),
        )
        self.first, self.second = nn.LayerNorm(32), nn.LayerNorm(32)
        self.wide = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of ten classes."""
        x = self.embed(x)
        x = self.first(x + self.attend(x, x, x, need_weights=False)[0])
        out: Tensor = self.head(self.second(x + self.wide(x)).mean(1))
        return out


class Last(nn.Module):
    """The last step of a sequence's scores."""

    def forward(self, x: Tensor) -> Tensor:
        """Of [B, T, classes], [B, classes]."""
        return x[:, -1]


def group_cnn() -> nn.Module:
    """Two convolutions with GroupNorm."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(16, 32, 3),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


IMAGE, FLAT = torch.zeros(1, 1, 28, 28), torch.zeros(1, 784)
WORDS = torch.zeros(1, 24, dtype=torch.int64)
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "logistic": (lambda: nn.Linear(784, 10), FLAT),
    "MLP": (lambda: nn.Sequential(nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, 10)), FLAT),
    "CNN": (models.tanh_cnn, IMAGE),
    "GN-CNN": (group_cnn, IMAGE),
    "LN-MLP": (
        lambda: nn.Sequential(nn.Linear(784, 50), nn.LayerNorm(50), nn.Tanh(), nn.Linear(50, 10)),
        FLAT,
    ),
    "embedding": (
        lambda: nn.Sequential(nn.Embedding(2000, 16), nn.Flatten(), nn.Linear(384, 10)),
        WORDS,
    ),
    "DPLSTM": (lambda: nn.Sequential(models.lstm(64), Last()), WORDS),
    "transformer": (Transformer, WORDS),
}


def least(call: Callable[[], object]) -> float:
    """Milliseconds of a call: the least of five medians of five."""
    call()
    medians = []
    for _ in range(5):
        seconds = []
        for _ in range(5):
            began = time.process_time()
            call()
            seconds.append(time.process_time() - began)
        medians.append(statistics.median(seconds))
    return 1e3 * min(medians)


def opacus(task: Task, model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    """One step's sum of clipped gradients as a silo makes it, without noise."""
    module = GradSampleModule(model.train(), loss_reduction="mean")
    sgd = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    noisy = NoisyOptimizer(sgd, RecordUnit(CLIP, 0.0, 1.0, 1, 1.0))

    def call() -> None:
        noisy.zero_grad(set_to_none=True)
        torch.autograd.backward(task.loss(module(x), y))
        noisy.clip_and_accumulate()

    return call


def moved(step: DeviceGraph, parameters: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """Largest change of a record's clipped gradient by its row and by what is beside it."""
    runtime, rows, first = check.session(step), len(x), None
    clip, worst = np.array(CLIP, dtype=np.float32), 0.0
    for row in range(rows):
        place = np.roll(np.arange(rows), row)
        feeds = (parameters, x[place], y[place], np.arange(rows) == row, clip)
        made = check.run(runtime, step.manifest, *feeds)[0]
        first = made if first is None else first
        worst = max(worst, float(np.linalg.norm(made - first)) / CLIP)
    return worst


def measured(name: str, rows: int) -> dict[str, Any]:
    """A model's row."""
    make, like = MODELS[name]
    torch.manual_seed(0)
    model = make()
    task = Task(name=name, model=make, data=lambda _: (like, like))
    likes = (like, torch.zeros(1, dtype=torch.int64))
    began = time.process_time()
    step = export_device_step(task, model, likes, rows)
    seconds = time.process_time() - began
    x, y = check.made_up(like, rows, 4), check.made_up(likes[1], rows, 5)
    parameters, runtime = vector.moved(model), check.session(step)
    feeds = (parameters, x.numpy(), y.numpy(), np.ones(rows, dtype=bool))
    clip = np.array(CLIP, dtype=np.float32)
    return {
        "model": name,
        "parameters": step.manifest.size,
        "export_seconds": seconds,
        "graph_bytes": step.manifest.graph_bytes,
        "relative_error": check.verify(step, task, model, likes),
        "onnxruntime_ms": least(lambda: check.run(runtime, step.manifest, *feeds, clip)),
        "opacus_ms": least(opacus(task, model, x, y)),
        "moved_by_row": moved(step, parameters, x.numpy(), y.numpy()),
    }


def short_norm(size: int) -> float:
    """By how much onnxruntime's float32 norm of ``size`` equal numbers is too small, at most."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["s"]),
        helper.make_node("ReduceSum", ["s"], ["t"], keepdims=0),
        helper.make_node("Sqrt", ["t"], ["n"]),
    ]
    into = helper.make_tensor_value_info("x", TensorProto.FLOAT, [size])
    out = helper.make_tensor_value_info("n", TensorProto.FLOAT, [])
    opset = [helper.make_opsetid("", 20)]
    proto = helper.make_model(
        helper.make_graph(nodes, "norm", [into], [out]), opset_imports=opset, ir_version=10
    )
    runtime = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    worst = 0.0
    for value in np.random.default_rng(0).uniform(0.5, 2.0, 50).astype(np.float32):
        want = float(value) * float(np.sqrt(size))
        got = float(runtime.run(["n"], {"x": np.full(size, value, dtype=np.float32)})[0])
        worst = max(worst, 1.0 - got / want)
    return worst


def device_pass(records: int = 239) -> float:
    """Milliseconds in which a device sums the clipped gradients of its digits, one a call."""
    spec = compose(["experiment=digits"])
    task = load(spec)
    x, y = (t.numpy() for t in tensors(task.data(0), "client 0"))
    data = Records(np.resize(x, (records, *x.shape[1:])), np.resize(y, (records,)))
    made = exported(task, spec)[0]
    graph, start = Graph(made.graph, made.manifest), vector.read(make_model(task, None))
    rows = np.arange(records)
    return least(lambda: steps.summed(graph, start, data, rows, CLIP))


def main() -> None:
    """Prints the table."""
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=16, help="records of a call")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    one_thread()
    torch.set_num_threads(1)
    rows = [measured(name, arguments.rows) for name in MODELS]
    own = device_pass()
    norms = {size: short_norm(size) for size in (10_000, 100_000, 1_000_000)}
    table = [
        [
            r["model"],
            f"{r['parameters']:,}",
            f"{r['export_seconds']:.1f}",
            f"{r['graph_bytes']:,}",
            f"{r['relative_error']:.1e}",
            f"{r['onnxruntime_ms']:.2f}",
            f"{r['opacus_ms']:.2f}",
            f"{r['moved_by_row']:.0e}",
        ]
        for r in rows
    ]
    names = ["model", "d", "export s", "bytes", "error", "ms", "Opacus", "moved"]
    result = {
        "rows": arguments.rows,
        "models": rows,
        "float32_norm_too_small_by": {str(k): v for k, v in norms.items()},
        "margin": 1.0 - MARGIN,
        "device_pass_ms": own,
        "onnxruntime": onnxruntime.__version__,
        "machine": machine(),
    }
    title = f"a step of {arguments.rows} records; clipping's margin is {1 - MARGIN:.1e}"
    shorter = [[f"{size:,}", f"{off:.1e}"] for size, off in norms.items()]
    show("a float32 norm of equal numbers", ["numbers", "too small by"], shorter, {}, False)
    if not arguments.json:
        print(f"a device's pass over 239 digits, one a call: {own:.1f} ms")
    show(title, names, table, result, arguments.json)


if __name__ == "__main__":
    main()
