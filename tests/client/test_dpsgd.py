"""`tacit.client.dpsgd`: one record moves a step by at most the clip, and the noise is ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.grad_sample import GradSampleModule
from opacus.layers import DPLSTM
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from tacit.client import dpsgd
from tacit.client.trainer import Trainer
from tacit.privacy.mechanisms import MARGIN
from tacit.privacy.noise import Floats, Randomness, SimulationSource, Singles
from tacit.privacy.units import RecordUnit
from tacit.tasks import vector

Make = Callable[..., Trainer]
LOSS = nn.functional.cross_entropy


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(7, 4), DPLSTM(4, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(self.embed(x))[0][:, -1])


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "linear": (lambda: nn.Linear(5, 3), lambda n: torch.randn(n, 5)),
    "layernorm": (
        lambda: nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)),
        lambda n: torch.randn(n, 5),
    ),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        ),
        lambda n: torch.randn(n, 2, 6, 6),
    ),
    "lstm": (Recurrent, lambda n: torch.randint(0, 7, (n, 4))),
}


def unit(clip: float = 1.0, noise: float = 0.0, denominator: float = 1.0) -> RecordUnit:
    return RecordUnit(clip, noise, 1.0, 1, denominator)


def by_hand(model: nn.Module, x: Tensor, y: Tensor, clip: float) -> Tensor:
    """Sum of clipped per-example gradients, one autograd call a record, in float64."""
    trained = [p for p in model.parameters() if p.requires_grad]
    total = torch.zeros(sum(p.numel() for p in trained), dtype=torch.float64)
    for i in range(len(x)):
        grads = torch.autograd.grad(LOSS(model(x[i : i + 1]), y[i : i + 1]), trained)
        flat = torch.cat([g.reshape(-1) for g in grads]).double()
        total += flat * min(1.0, clip * MARGIN / float(flat.norm()))
    return total


def summed(model: nn.Module, x: Tensor, y: Tensor, clip: float) -> Tensor:
    """What `NoisyOptimizer` adds up before any noise."""
    module = GradSampleModule(model, loss_reduction="mean")
    optimizer = dpsgd.NoisyOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), unit(clip))
    if len(x) == 0:
        dpsgd.empty_batch(module)
    else:
        torch.autograd.backward(LOSS(module(x), y))
    optimizer.clip_and_accumulate()
    result = torch.cat([p.summed_grad.reshape(-1) for p in optimizer.params])
    optimizer.zero_grad(set_to_none=True)
    module.to_standard_module()
    return result


def relative(got: Any, want: Any) -> float:
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


class Recorded:
    """A source that writes down what is drawn from it."""

    name = "recorded"

    def __init__(self) -> None:
        self.inner, self.sizes = SimulationSource(0, "recorded"), list[int]()

    def uniform(self, size: int) -> Floats:
        return self.inner.uniform(size)

    def normal32(self, size: int) -> Singles:
        self.sizes.append(size)
        return self.inner.normal32(size)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("clip", [0.1, 1.0, 100.0])
def test_the_sum_is_that_of_gradients_clipped_by_hand(name: str, clip: float) -> None:
    make, data = MODELS[name]
    model, x, y = make(), data(9), torch.randint(0, 3, (9,))
    assert relative(summed(model, x, y, clip), by_hand(model, x, y, clip)) < 1e-6


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("clip", [0.5, 100.0])
def test_a_step_without_noise_is_opacuss(name: str, clip: float) -> None:
    make, data = MODELS[name]
    x, y = data(9), torch.randint(0, 3, (9,))
    steps = []
    for ours in (True, False):
        torch.manual_seed(3)
        model = make()
        before = vector.read(model)
        module = GradSampleModule(model, loss_reduction="mean")
        inner = torch.optim.SGD(model.parameters(), lr=1.0)
        optimizer = (
            dpsgd.NoisyOptimizer(inner, unit(clip, denominator=0.25))
            if ours
            else DPOptimizer(
                inner, noise_multiplier=0.0, max_grad_norm=clip, expected_batch_size=0.25
            )
        )
        torch.autograd.backward(LOSS(module(x), y))
        optimizer.step()
        steps.append(vector.read(model) - before)
    # Both shrink a clipped gradient by about a millionth, each in its own way.
    assert relative(steps[0], steps[1]) < 2.5e-6


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(sorted(MODELS)),
    seed=st.integers(0, 2**20),
    clip=st.sampled_from([1e-3, 0.1, 1.0, 30.0]),
    scale=st.sampled_from([1e-2, 1.0, 30.0]),
    records=st.integers(1, 8),
    odd=st.sampled_from([None, float("nan"), float("inf"), 1e30]),
)
def test_one_record_more_moves_the_sum_by_at_most_the_clip(
    name: str, seed: int, clip: float, scale: float, records: int, odd: float | None
) -> None:
    torch.manual_seed(seed)
    make, data = MODELS[name]
    model, x, y = make(), data(records), torch.randint(0, 3, (records,))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale)
    one = seed % records
    if odd is not None and x.is_floating_point():
        x[one].view(-1)[0] = odd
    others = torch.arange(records) != one
    with_it, without = summed(model, x, y, clip), summed(model, x[others], y[others], clip)
    assert bool(torch.isfinite(with_it).all())
    assert float((with_it.double() - without.double()).norm()) <= clip * (1 + 1e-4)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_a_record_whose_gradient_isnt_finite_counts_as_zero(odd: float) -> None:
    model, x, y = nn.Linear(5, 3), torch.randn(6, 5), torch.randint(0, 3, (6,))
    rest = torch.tensor([0, 1, 3, 4, 5])
    x[2, 1] = odd
    got = summed(model, x, y, 0.3)
    torch.testing.assert_close(got, summed(model, x[rest], y[rest], 0.3), rtol=1e-6, atol=1e-7)


def test_a_gradient_too_large_for_its_norm_doesnt_blank_the_others() -> None:
    model, x, y = nn.Linear(5, 3), torch.randn(6, 5), torch.randint(0, 3, (6,))
    x[2] *= 1e25
    got = summed(model, x, y, 0.3)
    rest = torch.tensor([0, 1, 3, 4, 5])
    without = summed(model, x[rest], y[rest], 0.3)
    assert bool(torch.isfinite(got).all())
    assert float((got - without).norm()) <= 0.3
    assert float(without.norm()) > 0


def test_the_margin_keeps_the_float32_norm_below_the_clip() -> None:
    model = nn.Linear(3000, 3)
    for _ in range(20):
        got = summed(model, torch.randn(1, 3000) * 10, torch.tensor([1]), 0.1)
        assert float(got.double().norm()) < 0.1


def test_noise_is_one_draw_for_all_tensors_of_the_right_size() -> None:
    model = MODELS["cnn"][0]()
    module = GradSampleModule(model)
    optimizer = dpsgd.NoisyOptimizer(
        torch.optim.SGD(model.parameters(), lr=1.0), unit(0.5, 2.0, 4.0)
    )
    source = Recorded()
    optimizer.source = source
    before = vector.read(model)
    dpsgd.empty_batch(module)
    optimizer.step()
    assert source.sizes == [len(before)]
    want = -SimulationSource(0, "recorded").normal32(len(before)) * 2.0 * 0.5 / 4.0
    np.testing.assert_allclose(vector.read(model) - before, want, atol=1e-6)


def test_noise_without_a_source_is_never_left_out() -> None:
    model = nn.Linear(2, 2)
    module = GradSampleModule(model)
    optimizer = dpsgd.NoisyOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), unit(noise=1.0))
    dpsgd.empty_batch(module)
    with pytest.raises(RuntimeError, match="source"):
        optimizer.step()


NOISY = (
    "privacy.record.noise_multiplier=2.0",
    "privacy.record.clip=0.5",
    "privacy.record.denominator=4.0",
    "local.learning_rate=0.5",
)


@pytest.mark.parametrize("seed", [0, None])
def test_noise_is_gaussian_with_z_times_clip_over_the_denominator(
    trainer: Make, seed: int | None
) -> None:
    made = trainer(lambda: nn.Linear(999, 10), *NOISY)
    got = made.train(
        vector.read(made.model), torch.zeros(0, 999), torch.zeros(0).long(), Randomness(seed), "x"
    )
    std = 0.5 * 2.0 * 0.5 / 4.0
    # Six standard errors, so that a draw from the operating system passes too.
    assert abs(got.std() / std - 1) < 6 / np.sqrt(2 * got.size)
    assert abs(got.mean()) < 6 * std / np.sqrt(got.size)
    assert scipy.stats.kstest(got / std, "norm").pvalue > 1e-7


def test_an_empty_batch_is_pure_noise_of_the_clients_stream(trainer: Make) -> None:
    made = trainer(lambda: nn.Linear(5, 3), *NOISY)
    parameters = vector.read(made.model)
    got = made.train(
        parameters, torch.zeros(0, 5), torch.zeros(0).long(), Randomness(7), "train", 2, 3
    )
    drawn = Randomness(7).source("noise", "train", 2, 3).normal32(18)
    np.testing.assert_allclose(got, -0.5 * drawn * 2.0 * 0.5 / 4.0, atol=1e-6)


def test_noise_is_fresh_in_every_step(trainer: Make) -> None:
    made = trainer(lambda: nn.Linear(5, 3), *NOISY, "local.steps=3")
    got = made.train(
        vector.read(made.model), torch.zeros(0, 5), torch.zeros(0).long(), Randomness(7), "x"
    )
    source = Randomness(7).source("noise", "x")
    drawn = np.stack([source.normal32(18) for _ in range(3)])
    np.testing.assert_allclose(got, -0.5 * drawn.sum(0) * 2.0 * 0.5 / 4.0, atol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 1.3])
@pytest.mark.parametrize("physical", [1, 2, 4, 9])
def test_the_physical_batch_doesnt_change_the_result(
    trainer: Make, physical: int, noise: float
) -> None:
    x, y = torch.randn(9, 5), torch.randint(0, 3, (9,))
    updates = []
    for size in (physical, 512):
        made = trainer(
            lambda: nn.Linear(5, 3),
            f"local.physical_batch={size}",
            f"privacy.record.noise_multiplier={noise}",
            "privacy.record.clip=0.3",
            "privacy.record.sampling_rate=0.8",
            "local.steps=4",
        )
        updates.append(made.train(vector.read(made.model), x, y, Randomness(1), "x"))
    np.testing.assert_allclose(updates[0], updates[1], rtol=1e-5, atol=1e-6)


def test_the_denominator_is_the_plans_whatever_the_client_has(trainer: Make) -> None:
    made = trainer(lambda: nn.Linear(5, 3), "privacy.record.clip=0.3")
    assert made.plan.record is not None
    assert made.plan.record.denominator == 10
    for records in (1, 4, 25):
        x, y = torch.randn(records, 5), torch.randint(0, 3, (records,))
        parameters = vector.read(made.model)
        want = -0.5 * by_hand(made.model, x, y, 0.3) / 10
        got = made.train(parameters, x, y, Randomness(1), "x")
        assert relative(got, want) < 1e-5


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_batches_are_poisson(trainer: Make, rate: float) -> None:
    made = trainer(lambda: nn.Linear(5, 3), f"privacy.record.sampling_rate={rate}")
    records, draws = 12, 4000
    rows = [made.draws(records, Randomness(0), "draws", k)[0] for k in range(draws)]
    counted = np.bincount([len(r) for r in rows], minlength=records + 1)
    expected = draws * scipy.stats.binom.pmf(np.arange(records + 1), records, rate)
    # Sizes too rare for a chi-square are put together.
    rare = expected < 10
    tested = np.append(counted[~rare], counted[rare].sum())
    against = np.append(expected[~rare], expected[rare].sum())
    assert scipy.stats.chisquare(tested, against).pvalue > 1e-4
    each = np.bincount(np.concatenate(rows), minlength=records)
    z = (each - draws * rate) / np.sqrt(draws * rate * (1 - rate))
    assert np.abs(z).max() < 5
    assert all(len(set(r.tolist())) == len(r) for r in rows)


def test_a_rate_of_one_takes_every_record_and_no_records_give_none(trainer: Make) -> None:
    made = trainer(lambda: nn.Linear(5, 3))
    assert [rows.tolist() for rows in made.draws(30, Randomness(0), "x")] == [list(range(30))]
    assert [rows.tolist() for rows in made.draws(0, Randomness(0), "x")] == [[]]


def test_a_sampled_step_uses_the_rows_that_were_drawn(trainer: Make) -> None:
    made = trainer(lambda: nn.Linear(5, 3), "privacy.record.sampling_rate=0.5")
    x, y = torch.randn(16, 5), torch.randint(0, 3, (16,))
    parameters = vector.read(made.model)
    rows = torch.from_numpy(np.flatnonzero(Randomness(4).source("batch", "x").uniform(16) < 0.5))
    assert 0 < len(rows) < 16
    want = -0.5 * by_hand(made.model, x[rows], y[rows], 1.0) / (0.5 * 10)
    got = made.train(parameters, x, y, Randomness(4), "x")
    assert relative(got, want) < 1e-5
