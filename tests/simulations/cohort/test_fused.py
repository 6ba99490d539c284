"""The compiled engine: its updates are autograd's in doubles, or it refuses."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from tacit import Task
from tacit.client.dpsgd import NoisyOptimizer
from tacit.privacy.errors import DataError, ModelError
from tacit.privacy.mechanisms import MARGIN
from tacit.privacy.noise import SimulationSource
from tacit.privacy.units import RecordUnit
from tacit.simulations.cohort.fused.engine import FusedEngine, fused
from tacit.simulations.cohort.job import Job, Recipe, UnsupportedError
from tacit.tasks.models import Scale, gabor_cnn, linear, tanh_cnn

DP = Recipe(
    steps=2,
    learning_rate=0.5,
    proximal=0.0,
    clip=1.0,
    denominator=4.0,
    noise=0.0,
    summed=False,
    physical_batch=64,
)
# Without a clip, the mean of the batch.
PLAIN = dataclasses.replace(DP, clip=None, denominator=1.0)
SUMMED = dataclasses.replace(DP, steps=1, clip=0.3, summed=True)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def tutorial() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 8, 2, padding=3), nn.ReLU(), nn.MaxPool2d(2, 1)),
        *(nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.MaxPool2d(2, 1)),
        *(nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10)),
    )


def engine(model: nn.Module, recipe: Recipe) -> FusedEngine:
    return fused(Task(name="t", model=lambda: model, data=lambda _: ([], [])), model, recipe)


def flat(model: nn.Module) -> NDArray[np.float32]:
    return torch.cat(
        [p.detach().reshape(-1) for p in model.parameters() if p.requires_grad]
    ).numpy()


def job(shape: tuple[int, ...], recipe: Recipe, records: int = 6, classes: int = 3) -> Job:
    generator = torch.Generator().manual_seed(records)
    x = torch.randn((records, *shape), generator=generator)
    y = torch.randint(0, classes, (records,), generator=generator)
    rng = np.random.default_rng(records)
    rows = [np.flatnonzero(rng.random(records) < 0.7) for _ in range(recipe.steps)]
    return Job(x, y, rows, SimulationSource(3, "noise"))


def again(made: Job) -> Job:
    """With its stream from the beginning."""
    return dataclasses.replace(made, noise=SimulationSource(3, "noise"))


class Reference:
    """Training in doubles, one record at a time."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self.model, self.recipe = copy.deepcopy(model).double(), recipe
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        # How far the nearest kink of a ReLU or a maximum is: nearer, rounding decides.
        self.margin = float("inf")
        for layer in self.model.modules():
            if type(layer) in (nn.ReLU, nn.MaxPool2d):
                layer.register_forward_pre_hook(self.look)

    def look(self, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        gaps = inputs[0].detach().abs()
        if isinstance(layer, nn.MaxPool2d):
            windows = nn.functional.unfold(
                inputs[0].detach(), layer.kernel_size, stride=layer.stride
            )
            taps = nn.functional.unfold(gaps[:, :1], layer.kernel_size).shape[1]
            top = windows.unflatten(1, (-1, taps)).topk(min(2, taps), 2).values
            gaps = top[:, :, 0] - top[:, :, -1]
        gaps = gaps[gaps > 0]
        self.margin = min(self.margin, float(gaps.min()) if gaps.numel() else self.margin)

    def gradient(self, w: NDArray[np.float64], x: Tensor, y: Tensor) -> NDArray[np.float64]:
        offset = 0
        for p in self.trained:
            part = torch.from_numpy(w[offset : offset + p.numel()])
            p.data.copy_(part.view_as(p))
            offset += p.numel()
        loss = nn.functional.cross_entropy(self.model(x.double()), y)
        grads = torch.autograd.grad(loss, self.trained)
        return torch.cat([g.reshape(-1) for g in grads]).numpy()

    def total(
        self, w: NDArray[np.float64], made: Job, rows: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The clipped sum, or the mean."""
        clip, total = self.recipe.clip, np.zeros_like(w)
        for row in rows:
            g = self.gradient(w, made.inputs[row : row + 1], made.targets[row : row + 1])
            norm = np.linalg.norm(g)
            if clip is None:
                total += g / len(rows)
            elif np.isfinite(norm):
                total += g * min(1.0, MARGIN * clip / (norm + 1e-12))
        return total

    def update(self, start: NDArray[np.float32], made: Job) -> NDArray[np.float64]:
        recipe, w = self.recipe, start.astype(np.float64)
        for rows in made.rows:
            total = self.total(w, made, rows)
            if recipe.summed:
                return total * -recipe.learning_rate / recipe.denominator
            if recipe.clip is not None and recipe.noise > 0:
                assert made.noise is not None
                total += made.noise.normal32(len(w)) * recipe.noise
            if recipe.clip is not None:
                total /= recipe.denominator
            w = w - recipe.learning_rate * (total + recipe.proximal * (w - start))
        return w - start


def agree(got: NDArray[np.float32], due: NDArray[np.float64]) -> None:
    assert np.linalg.norm(got - due) <= 1e-5 * np.linalg.norm(due) + 1e-9


def compare(model: nn.Module, recipe: Recipe, made: Job) -> NDArray[np.float32]:
    (got,) = engine(model, recipe).updates(flat(model), [made])
    agree(got, Reference(model, recipe).update(flat(model), again(made)))
    return got


# -- Random networks


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[nn.Module], tuple[int, ...]]:
    """Layers over images, then over vectors, of sizes that leave every remainder."""
    torch.manual_seed(draw(st.integers(0, 99)))
    number = lambda low, high: draw(st.integers(low, high))  # noqa: E731
    shape = (number(1, 5), number(1, 11), number(1, 11))
    layers: list[nn.Module] = [Scale(0.7)] if draw(st.booleans()) else []
    c, h, w = shape
    for _ in range(number(0, 3)):
        kind = draw(st.sampled_from(["conv", "max", "average", "group"]))
        kernel, stride = (number(1, min(4, h)), number(1, min(4, w))), (number(1, 2), number(1, 3))
        if kind == "conv":
            out, padding = number(1, 35), (number(0, 2), number(0, 2))
            layers.append(nn.Conv2d(c, out, kernel, stride, padding, bias=draw(st.booleans())))
            c, h, w = out, h + 2 * padding[0], w + 2 * padding[1]
        elif kind == "group":
            assume(h * w > 1)
            layers.append(nn.GroupNorm(draw(st.sampled_from([1, c])), c))
            kernel, stride = (1, 1), (1, 1)
        else:
            layers.append((nn.MaxPool2d if kind == "max" else nn.AvgPool2d)(kernel, stride))
        h, w = (h - kernel[0]) // stride[0] + 1, (w - kernel[1]) // stride[1] + 1
        layers += draw(st.sampled_from([[], [nn.Tanh()], [nn.ReLU()], [nn.Tanh(), Scale(2)]]))
    layers.append(nn.Flatten())
    size = c * h * w
    if size > 1 and draw(st.booleans()):
        layers.append(nn.LayerNorm(size))
    for _ in range(number(0, 2)):
        width = number(1, 37)
        layers += [nn.Linear(size, width, bias=draw(st.booleans())), nn.Tanh()]
        size = width
    return [*layers, nn.Linear(size, 3)], shape


RECIPES = [
    DP,
    PLAIN,
    SUMMED,
    dataclasses.replace(DP, noise=0.7, proximal=0.3, physical_batch=2),
    dataclasses.replace(PLAIN, proximal=0.3, physical_batch=3),
]


@settings(max_examples=80, derandomize=True, deadline=None, database=None)
@given(networks(), st.sampled_from(RECIPES), st.data())
def test_equals_autograd(
    network: tuple[list[nn.Module], tuple[int, ...]], recipe: Recipe, data: st.DataObject
) -> None:
    layers, shape = network
    model = nn.Sequential(*layers)
    for p in list(model.parameters())[:-1]:
        p.requires_grad_(data.draw(st.sampled_from([True, True, False])))
    made = job(shape, recipe)
    reference = Reference(model, recipe)
    due = reference.update(flat(model), again(made))
    assume(reference.margin > 1e-5)
    (got,) = engine(model, recipe).updates(flat(model), [made])
    assert got.dtype == (np.float64 if recipe.summed else np.float32)
    agree(got, due)


# -- Networks that people use


@pytest.mark.parametrize("recipe", [RECIPES[3], RECIPES[4], SUMMED])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (tutorial, (1, 28, 28)),
        (lambda: tanh_cnn(10), (1, 28, 28)),
        (lambda: gabor_cnn(10), (16, 7, 7)),
        (lambda: linear(784, 10), (28, 28)),
    ],
)
def test_known_networks(make, shape: tuple[int, ...], recipe: Recipe) -> None:
    torch.manual_seed(1)
    compare(make(), dataclasses.replace(recipe, learning_rate=0.1), job(shape, recipe, classes=10))


def test_equals_opacus() -> None:
    torch.manual_seed(1)
    model, made = tutorial(), job((1, 28, 28), DP, classes=10)
    recipe = dataclasses.replace(DP, noise=0.5, proximal=0.0)
    (got,) = engine(model, recipe).updates(flat(model), [made])
    start, made = flat(model), again(made)
    module = GradSampleModule(copy.deepcopy(model), loss_reduction="mean")
    sgd = torch.optim.SGD(module.parameters(), lr=recipe.learning_rate)
    unit = RecordUnit(noise_multiplier=0.5, clip=1.0, sampling_rate=1.0, steps=2, denominator=4.0)
    noisy = NoisyOptimizer(sgd, unit)
    noisy.source = SimulationSource(3, "noise")
    for rows in made.rows:
        noisy.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(module(made.inputs[rows]), made.targets[rows])
        torch.autograd.backward(loss)
        noisy.step()
    agree(got, (flat(module) - start).astype(np.float64))


def test_more_records_than_fit_a_chunk() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    whole = compare(model, DP, job((5,), DP, records=300))
    ones = dataclasses.replace(DP, physical_batch=1)
    np.testing.assert_allclose(compare(model, ones, job((5,), DP, records=300)), whole, rtol=1e-4)


def test_same_padding_and_identity() -> None:
    torch.manual_seed(1)
    convolutions = nn.Conv2d(2, 5, 4, padding="same"), nn.Conv2d(5, 3, 2, padding="valid")
    inner = nn.Sequential(convolutions[0], nn.Identity(), nn.Dropout(0.0), convolutions[1])
    compare(nn.Sequential(inner, nn.Flatten(), nn.Linear(60, 3)), DP, job((2, 6, 5), DP))


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2, 1), nn.MaxPool2d(2), nn.MaxPool2d(3, 1)])
@pytest.mark.parametrize("channels", [3, 16])
def test_ties_go_to_the_first(pool: nn.Module, channels: int) -> None:
    torch.manual_seed(1)
    # From zero all pixels are equal, but not what they were made from.
    convolution = nn.Conv2d(1, channels, 2)
    nn.init.zeros_(convolution.weight)
    model = nn.Sequential(convolution, pool, nn.Flatten(), nn.LazyLinear(3))
    recipe = dataclasses.replace(DP, steps=1)
    made = job((1, 7, 7), recipe)
    model(made.inputs)
    compare(model, recipe, made)


@pytest.mark.parametrize("pixel", [(0, 0), (1, 1)])
def test_a_maximum_of_nan_is_nan(pixel: tuple[int, int]) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(9, 3))
    made = job((1, 6, 6), DP)
    rows = [rows[rows != 2] for rows in made.rows]
    assert any(2 in rows for rows in made.rows)
    made.inputs[2, 0, pixel[0], pixel[1]] = float("nan")
    got, clean = engine(model, DP).updates(
        flat(model), [made, dataclasses.replace(made, rows=rows)]
    )
    np.testing.assert_allclose(got, clean, rtol=0, atol=1e-6)


# -- Batches and records at the edges


def small() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 3)),
    )


@pytest.mark.parametrize("shape", [(0, 1, 6, 6), (0,)])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_client_without_records(recipe: Recipe, shape: tuple[int, ...]) -> None:
    model, none = small(), [np.zeros(0, dtype=np.int64)] * recipe.steps
    made = Job(torch.zeros(shape), torch.zeros(0), none, SimulationSource(3, "noise"))
    got = compare(model, recipe, made)
    assert (np.linalg.norm(got) > 0) == (recipe.noise > 0)


@pytest.mark.parametrize("recipe", [RECIPES[3], RECIPES[4]])
def test_an_empty_batch_between(recipe: Recipe) -> None:
    recipe = dataclasses.replace(recipe, steps=3)
    made = job((1, 6, 6), recipe)
    rows = [np.arange(4), np.zeros(0, dtype=np.int64), np.arange(2, 6)]
    compare(small(), recipe, dataclasses.replace(made, rows=rows))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("trained", [slice(None), slice(0, 2), slice(2, 4)])
def test_a_record_without_a_finite_gradient_counts_as_zero(value: float, trained: slice) -> None:
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    torch.manual_seed(2)
    model, made = nn.Sequential(*layers), job((1, 6, 6), DP)
    for p in model.parameters():
        p.requires_grad_(False)
    for p in list(model.parameters())[trained]:
        p.requires_grad_(True)
    poisoned = made.inputs.clone()
    poisoned[2, 0, 1, 1] = value
    trainer = engine(model, DP)
    got, clean, untouched = trainer.updates(
        flat(model),
        [
            dataclasses.replace(made, inputs=poisoned),
            dataclasses.replace(made, rows=[rows[rows != 2] for rows in made.rows]),
            made,
        ],
    )
    assert all(2 in rows for rows in made.rows)
    np.testing.assert_allclose(got, clean, rtol=0, atol=1e-6)
    assert np.isfinite(untouched).all()
    assert np.linalg.norm(untouched - clean) > 1e-3


def test_without_clipping_a_nan_is_seen() -> None:
    made = job((1, 6, 6), PLAIN)
    made.inputs[:] = float("nan")
    (got,) = engine(small(), PLAIN).updates(flat(small()), [made])
    assert np.isnan(got).any()


@pytest.mark.parametrize("frozen", [[0], [0, 1], [1, 3], [2, 3], [4, 5], [0, 1, 2, 3], [5]])
@pytest.mark.parametrize("recipe", [DP, PLAIN])
def test_frozen_parameters_are_used(frozen: list[int], recipe: Recipe) -> None:
    model = small()
    for k in frozen:
        list(model.parameters())[k].requires_grad_(False)
    got = compare(model, recipe, job((1, 6, 6), recipe))
    assert len(got) == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_a_client_leaves_nothing_behind() -> None:
    """Of one engine's clients each gets what an engine of its own would give it."""
    model, recipe = small(), RECIPES[3]
    made = [job((1, 6, 6), recipe, records=n) for n in (5, 0, 40, 1, 5)]
    made[3].inputs[:] = float("nan")
    start = flat(model)
    before = start.copy(), copy.deepcopy(model.state_dict())
    together = engine(model, recipe).updates(start, made)
    for one, update in zip(made, together, strict=True):
        (alone,) = engine(model, recipe).updates(start, [again(one)])
        np.testing.assert_array_equal(alone, update)
    np.testing.assert_array_equal(start, before[0])
    assert all(torch.equal(v, before[1][k]) for k, v in model.state_dict().items())


def test_records_of_any_layout() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    made = job((3, 6, 6), DP)
    strided = made.inputs.to(memory_format=torch.channels_last)
    trainer = engine(model, DP)
    targets = torch.stack([made.targets, made.targets], 1)[:, 0]
    got = trainer.updates(
        flat(model), [made, dataclasses.replace(made, inputs=strided, targets=targets)]
    )
    np.testing.assert_array_equal(got[0], got[1])


# -- Refusals


@pytest.mark.parametrize("target", [-1, 3, -100])
def test_a_target_that_is_no_class(target: int) -> None:
    made = job((1, 6, 6), DP)
    made.targets[made.rows[1][0]] = target
    with pytest.raises(DataError, match=f"target of record {made.rows[1][0]} is {target}"):
        engine(small(), DP).updates(flat(small()), [made])


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"rows": [np.array([6]), np.array([0])]}, ValueError, "row 6 of 6"),
        ({"rows": [np.array([-1]), np.array([0])]}, ValueError, "row -1 of 6"),
        ({"rows": [np.array([0])]}, ValueError, "1 steps, not 2"),
        ({"noise": None}, RuntimeError, "no noise source"),
        ({"inputs": torch.zeros((6, 1, 6, 6), dtype=torch.float64)}, UnsupportedError, "float64"),
        ({"inputs": torch.zeros((6, 2, 6, 6))}, UnsupportedError, "Conv2d of 1 channels"),
        ({"inputs": torch.zeros((6, 1, 2, 6))}, UnsupportedError, "Conv2d of 3 pixels over 2"),
        ({"inputs": torch.zeros((6, 1, 9, 9))}, UnsupportedError, "Linear.16. over records"),
        ({"inputs": torch.zeros((6, 36))}, UnsupportedError, "Conv2d over records of shape"),
        ({"targets": torch.zeros(6)}, UnsupportedError, "targets in torch.float32"),
        ({"targets": torch.zeros((6, 3), dtype=torch.int64)}, UnsupportedError, "targets in"),
    ],
)
def test_a_job_that_it_cannot_take(change: dict, error: type[Exception], text: str) -> None:
    recipe = dataclasses.replace(DP, noise=1.0)
    made = dataclasses.replace(job((1, 6, 6), recipe), **change)
    with pytest.raises(error, match=text):
        engine(small(), recipe).updates(flat(small()), [made])


def test_a_vector_of_another_model() -> None:
    with pytest.raises(ModelError, match="should be"):
        engine(small(), DP).updates(np.zeros(3, dtype=np.float32), [job((1, 6, 6), DP)])


class Sub(nn.Linear):
    pass


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def hooked() -> nn.Module:
    layer = nn.Linear(4, 3)
    layer.register_forward_hook(lambda *_: None)
    return layer


def patched() -> nn.Module:
    layer = nn.Linear(4, 3)
    layer.forward = lambda x: x[:, :3]  # type: ignore[method-assign]
    return layer


def shared() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer)


def tied() -> nn.Module:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, second)


def stray() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 3))
    model.register_parameter("stray", nn.Parameter(torch.zeros(2)))
    return model


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.Sequential(Sub(4, 3)), "Sub isn't"),
        (Own, "Own isn't"),
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.Sigmoid()), "Sigmoid isn't"),
        (hooked, "hooks"),
        (patched, "forward of its own"),
        (shared, "used twice"),
        (tied, "shares"),
        (stray, "parameter stray"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), "isn't a layer"),
        (lambda: nn.Linear(4, 3).double(), "float64"),
        (lambda: nn.Sequential(nn.Dropout(0.1), nn.Linear(4, 3)), "p=0.1"),
        (lambda: nn.Conv2d(2, 4, 3, groups=2), "groups=2"),
        (lambda: nn.Conv2d(2, 4, 3, dilation=2), "dilation"),
        (lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), "reflect"),
        (lambda: nn.MaxPool2d(2, padding=1), "padding"),
        (lambda: nn.MaxPool2d(2, ceil_mode=True), "ceil_mode"),
        (lambda: nn.MaxPool2d(12), "window of 144"),
        (lambda: nn.AvgPool2d(2, divisor_override=3), "divisor"),
        (lambda: nn.Flatten(0), "other dimensions"),
        (lambda: Scale(torch.ones(3)), "factor"),  # type: ignore[arg-type]
    ],
)
def test_a_model_that_it_does_not_know(make, text: str) -> None:
    with pytest.raises(UnsupportedError, match=text):
        engine(make(), DP)


@pytest.mark.parametrize(
    ("model", "shape", "text"),
    [
        (nn.Linear(4, 3), (5, 4), "Linear"),
        (nn.Conv2d(1, 3, 3), (1, 6, 6), "outputs of shape"),
        (nn.Sequential(nn.LayerNorm(6), nn.Flatten(), nn.Linear(36, 3)), (6, 6), "LayerNorm"),
        (nn.Sequential(nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(8, 3)), (4, 2), "GroupNorm"),
        (nn.Sequential(nn.GroupNorm(4, 4), nn.Linear(4, 3)), (4,), "groups of one"),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), (0,), "records of shape"),
    ],
)
def test_shapes_that_it_does_not_know(model: nn.Module, shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(UnsupportedError, match=text):
        engine(model, DP).updates(flat(model), [job(shape, DP)])


def test_a_loss_that_it_does_not_know() -> None:
    model = nn.Linear(4, 3)
    loss = lambda o, t: nn.functional.cross_entropy(o, t)  # noqa: E731
    task = Task(name="t", model=lambda: model, data=lambda _: ([], []), loss=loss)
    with pytest.raises(UnsupportedError, match="a loss other"):
        fused(task, model, DP)


@pytest.mark.parametrize("change", [{"steps": 2}, {"clip": None}])
def test_sums_of_one_clipped_step_only(change: dict) -> None:
    with pytest.raises(UnsupportedError, match="one clipped step"):
        engine(nn.Linear(4, 3), dataclasses.replace(SUMMED, **change))


@pytest.mark.parametrize("weights", [1, 2, 15, 16, 17, 40, 515, 40_001])
def test_noise_is_the_streams_own(weights: int) -> None:
    """The words of a stream become the normals that the stream itself makes of them."""
    recipe = dataclasses.replace(DP, steps=3, noise=1.0, denominator=1.0, learning_rate=1.0)
    model = nn.Sequential(nn.Linear(weights, 1, bias=False))
    nobody = np.zeros(0, dtype=np.int64)
    asked = Job(
        *(torch.zeros(0, weights), torch.zeros(0, dtype=torch.int64)),
        *([nobody] * recipe.steps, SimulationSource(5, weights)),
    )
    (got,) = engine(model, recipe).updates(np.zeros(weights, dtype=np.float32), [asked])
    stream = SimulationSource(5, weights)
    due = -np.sum([stream.normal32(weights) for _ in range(recipe.steps)], axis=0)
    np.testing.assert_allclose(got, due, rtol=0, atol=1e-5)
