"""`tacit.client.trainer`: local training is plain SGD made private, and counts are bounded."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import together
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from together import MODELS, records
from torch import Tensor, nn

from tacit.client import update
from tacit.client.trainer import Trainer
from tacit.privacy.errors import ModelError
from tacit.privacy.noise import Randomness, SimulationSource
from tacit.tasks import vector

Make = Callable[..., Trainer]
Parameters = list[Tensor]
PLAIN = ("privacy.record=none", "privacy.record.sampling_rate=1.0")
NOISY = ("privacy.record.noise_multiplier=1.0", "privacy.record.sampling_rate=0.5")
LOSS = nn.functional.cross_entropy
X = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
Y = torch.arange(12) % 3
NONE = (torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 40), nn.Dropout(0.5), nn.Linear(40, 3))


def train(
    made: Trainer, x: Tensor = X, y: Tensor = Y, seed: int | None = 0, labels: Any = ("train", 1, 0)
) -> np.ndarray:
    start = vector.read(made.model)
    try:
        return made.train(start, x, y, Randomness(seed), *labels)
    finally:
        vector.write(made.model, start)


def by_hand(
    made: Trainer, gradient: Callable[[Parameters], Parameters], steps: int, mu: float = 0.0
) -> np.ndarray:
    """Steps of SGD with rate 0.5 and FedProx's pull, from the trainer's parameters."""
    start = [p.detach().clone() for p in made.model.parameters()]
    w = [p.clone() for p in start]
    for _ in range(steps):
        grads = gradient(w)
        w = [a - 0.5 * (g + mu * (a - s)) for a, g, s in zip(w, grads, start, strict=True)]
    return torch.cat([(a - s).reshape(-1) for a, s in zip(w, start, strict=True)]).numpy()


def mean_gradient(w: Parameters, x: Tensor = X, y: Tensor = Y) -> Parameters:
    leaves = [a.clone().requires_grad_() for a in w]
    hidden = torch.tanh(x @ leaves[0].T + leaves[1])
    return list(torch.autograd.grad(LOSS(hidden @ leaves[2].T + leaves[3], y), leaves))


def clipped_gradient(w: Parameters) -> Parameters:
    """Sum of gradients clipped to 1, over the denominator 10."""
    total = [torch.zeros_like(a) for a in w]
    for i in range(len(X)):
        grads = mean_gradient(w, X[i : i + 1], Y[i : i + 1])
        norm = math.sqrt(sum(float(g.double().pow(2).sum()) for g in grads))
        total = [t + g * min(1.0, 1.0 / norm) for t, g in zip(total, grads, strict=True)]
    return [t / 10 for t in total]


def test_one_step_without_privacy_is_minus_rate_times_gradient(trainer: Make) -> None:
    made = trainer(model, *PLAIN)
    grads = mean_gradient([p.detach() for p in made.model.parameters()])
    want = -0.5 * torch.cat([g.reshape(-1) for g in grads]).numpy()
    np.testing.assert_allclose(train(made), want, atol=1e-6)
    assert np.linalg.norm(want) > 0.01


@pytest.mark.parametrize("physical", [1, 5, 12, 512])
def test_several_steps_without_privacy_are_plain_sgd(trainer: Make, physical: int) -> None:
    made = trainer(model, *PLAIN, "local.steps=4", f"local.physical_batch={physical}")
    np.testing.assert_allclose(train(made), by_hand(made, mean_gradient, 4), atol=2e-6)


def test_steps_of_epochs_are_taken(trainer: Make) -> None:
    made = trainer(model, *PLAIN, "local.steps=null", "local.epochs=3")
    np.testing.assert_allclose(train(made), by_hand(made, mean_gradient, 3), atol=2e-6)


def test_fedprox_pulls_towards_the_global_model(trainer: Make) -> None:
    made = trainer(model, *PLAIN, "local.steps=2", "local.proximal=0.8")
    want = by_hand(made, mean_gradient, 2, mu=0.8)
    np.testing.assert_allclose(train(made), want, atol=1e-6)
    assert np.abs(want - by_hand(made, mean_gradient, 2)).max() > 1e-3


@pytest.mark.parametrize("mu", [0.0, 0.8])
def test_several_private_steps_without_noise_are_clipped_sgd(trainer: Make, mu: float) -> None:
    made = trainer(model, "local.steps=3", f"local.proximal={mu}")
    np.testing.assert_allclose(train(made), by_hand(made, clipped_gradient, 3, mu), atol=2e-6)


@pytest.mark.parametrize("overrides", [PLAIN, NOISY])
def test_an_update_is_a_finite_float32_vector_and_its_input_is_kept(
    trainer: Make, overrides: tuple[str, ...]
) -> None:
    made = trainer(model, *overrides)
    parameters = vector.read(made.model)
    kept = parameters.copy()
    parameters.setflags(write=False)  # As a decoded message is.
    got = made.train(parameters, X, Y, Randomness(0), "x")
    assert got.dtype == np.float32
    assert got.shape == parameters.shape
    assert np.isfinite(got).all()
    np.testing.assert_array_equal(parameters, kept)


def test_training_starts_from_the_parameters_it_is_given(trainer: Make) -> None:
    made = trainer(model, *PLAIN)
    parameters = vector.read(made.model)
    first = made.train(parameters, X, Y, Randomness(0), "x")
    np.testing.assert_array_equal(made.train(parameters, X, Y, Randomness(0), "x"), first)
    assert not np.array_equal(made.train(parameters + 1, X, Y, Randomness(0), "x"), first)


@pytest.mark.parametrize("net", [model, dropping])
@pytest.mark.parametrize("overrides", [(*PLAIN, "privacy.record.sampling_rate=0.5"), NOISY])
def test_the_seed_round_and_client_decide_an_update(
    trainer: Make, net: Callable[[], nn.Module], overrides: tuple[str, ...]
) -> None:
    made = trainer(net, *overrides)
    one = train(made)
    np.testing.assert_array_equal(train(made), one)
    np.testing.assert_array_equal(train(trainer(net, *overrides)), one)
    for seed, labels in ((1, ("train", 1, 0)), (0, ("train", 2, 0)), (0, ("train", 1, 1))):
        assert not np.array_equal(train(made, seed=seed, labels=labels), one)


def test_round_and_client_numbers_dont_run_together(trainer: Make) -> None:
    made = trainer(model, *NOISY)
    assert not np.array_equal(
        train(made, labels=("train", 1, 11)), train(made, labels=("train", 11, 1))
    )


@pytest.mark.parametrize("net", [model, dropping])
@pytest.mark.parametrize("overrides", [(*PLAIN, "privacy.record.sampling_rate=0.5"), NOISY])
def test_an_update_doesnt_depend_on_who_trained_before(
    trainer: Make, net: Callable[[], nn.Module], overrides: tuple[str, ...]
) -> None:
    made, fresh = trainer(net, *overrides), trainer(net, *overrides)
    train(made, X * 3, Y, labels=("train", 1, 5))
    train(made, *NONE, labels=("train", 1, 6))
    train(made, torch.full_like(X, float("nan")), Y, labels=("train", 1, 7))
    np.testing.assert_array_equal(train(made), train(fresh))


class Remembering(nn.Module):
    """Normalises by a running mean: a buffer that training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 3)
        self.register_buffer("mean", torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.5).add_(0.5 * x.detach().mean(0))
        return self.head(x - self.mean)


def test_a_buffer_carries_nothing_from_one_client_to_the_next(trainer: Make) -> None:
    try:
        made, fresh = trainer(Remembering, *PLAIN), trainer(Remembering, *PLAIN)
        train(made, X + 100, Y, labels=("train", 1, 5))
        after, alone = train(made), train(fresh)
    except ModelError:
        return  # Refusing such a model keeps the promise too.
    np.testing.assert_array_equal(after, alone)


def test_without_a_seed_every_update_has_its_own_batches(trainer: Make) -> None:
    made = trainer(model, *PLAIN, "privacy.record.sampling_rate=0.5")
    updates = []
    for _ in range(5):
        torch.manual_seed(0)  # A library's seed mustn't decide what is drawn.
        updates.append(train(made, seed=None).tobytes())
    assert len(set(updates)) > 1


def test_without_a_seed_every_update_has_its_own_noise(trainer: Make) -> None:
    made = trainer(model, "privacy.record.noise_multiplier=1.0")
    updates = []
    for _ in range(5):
        torch.manual_seed(0)
        np.random.seed(0)
        updates.append(train(made, seed=None).tobytes())
    assert len(set(updates)) == 5


def test_without_a_seed_dropout_is_drawn_afresh_too(trainer: Make) -> None:
    made = trainer(dropping, *PLAIN)
    updates = []
    for _ in range(5):
        torch.manual_seed(0)
        updates.append(train(made, seed=None).tobytes())
    assert len(set(updates)) == 5


def test_an_empty_client_has_an_update_of_zero_without_noise(trainer: Make) -> None:
    for overrides in (PLAIN, (), (*PLAIN, "local.steps=3", "local.proximal=1.0")):
        got = train(trainer(model, *overrides), *NONE)
        np.testing.assert_array_equal(got, np.zeros_like(got))


def test_a_client_with_one_record_trains(trainer: Make) -> None:
    for overrides in (PLAIN, ()):
        got = train(trainer(model, *overrides), X[:1], Y[:1])
        assert 0 < np.linalg.norm(got) < 10


def test_a_record_moves_an_update_by_at_most_rate_times_clip_over_denominator(
    trainer: Make,
) -> None:
    made = trainer(model, "privacy.record.noise_multiplier=2.0", "privacy.record.clip=0.5")
    whole = train(made, X * 100, Y)
    fewer = train(made, X[:-1] * 100, Y[:-1])
    assert 0 < np.linalg.norm(whole - fewer) <= 0.5 * 0.5 / 10 * (1 + 1e-4)


def test_frozen_parameters_stay_as_they_are(trainer: Make) -> None:
    def partly() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 8).requires_grad_(False), nn.Linear(8, 3))

    for overrides in (PLAIN, NOISY):
        made = trainer(partly, *overrides)
        got = train(made)
        assert got.shape == (27,)
        assert vector.frozen_digest(made.model) == made.frozen


def test_an_update_that_isnt_finite_leaves_as_it_is(trainer: Make) -> None:
    made = trainer(model, *PLAIN, "privacy.client=flat", "privacy.client.clip=0.1")
    got = train(made, torch.full_like(X, float("nan")), Y)
    assert np.isnan(got).any()
    sent, _ = update.prepare(got, 12, 0.1, made.plan)
    np.testing.assert_array_equal(sent, got)


COUNTED = ("evaluation=federated", "evaluation.cap=8", "evaluation.loss_cap=1.5")


def counts(made: Trainer, x: Tensor, y: Tensor) -> np.ndarray:
    return made.counts(vector.read(made.model), x, y, SimulationSource(0, "counts"))


@pytest.mark.parametrize("records", [0, 1, 5, 8, 12])
def test_counts_without_dp_sgd_are_the_hand_computation(trainer: Make, records: int) -> None:
    made = trainer(model, *PLAIN, *COUNTED)
    x, y = X[:records] * 3, Y[:records]
    log = torch.log_softmax(made.model(x).detach().double(), -1)[:8]
    right = sum(int(row.argmax() == t) for row, t in zip(log, y, strict=False))
    loss = sum(min(1.5, -float(row[t])) / 1.5 for row, t in zip(log, y, strict=False))
    want = [right / 8, min(records, 8) / 8, loss / 8]
    got = counts(made, x, y)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_counts_with_dp_sgd_add_noise_of_the_record_level_sensitivity(trainer: Make) -> None:
    made = trainer(model, *COUNTED, "privacy.record.noise_multiplier=0.7")
    exact = counts(trainer(model, *PLAIN, *COUNTED), X, Y)
    source = SimulationSource(3, "counts")
    parameters = vector.read(made.model)
    drawn = np.array([made.counts(parameters, X, Y, source) for _ in range(500)]) - exact
    std = 0.7 * math.sqrt(3) / 8
    assert abs(drawn.std() / std - 1) < 6 / math.sqrt(2 * drawn.size)
    assert np.abs(drawn.mean(0)).max() < 6 * std / math.sqrt(len(drawn))
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.25


VALUES = st.sampled_from([0.0, 1.0, -3.0, 1e4, 1e30, float("nan"), float("inf"), -float("inf")])


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(st.tuples(VALUES, VALUES), max_size=12),
    scores=st.sampled_from([0.0, 1.0, 7.0, -7.0, float("nan"), float("inf")]),
)
def test_counts_without_noise_are_at_most_root_three_whatever_the_data(
    trainer: Make, values: list[tuple[float, float]], scores: float
) -> None:
    made = trainer(
        lambda: nn.Linear(1, 1),
        *PLAIN,
        *COUNTED,
        loss=nn.functional.mse_loss,
        correct=lambda outputs, targets: torch.full_like(outputs, scores),
    )
    x = torch.tensor([a for a, _ in values]).reshape(-1, 1)
    y = torch.tensor([b for _, b in values]).reshape(-1, 1)
    got = counts(made, x, y).astype(np.float64)
    assert np.isfinite(got).all()
    assert ((got >= 0) & (got <= 1)).all()
    assert np.linalg.norm(got) <= math.sqrt(3) * (1 + 1e-7)


def test_one_record_moves_the_counts_by_at_most_root_three_over_the_cap(trainer: Make) -> None:
    made = trainer(model, *PLAIN, *COUNTED)
    with_it, without = counts(made, X[:6] * 50, Y[:6]), counts(made, X[:5] * 50, Y[:5])
    assert 0 < np.linalg.norm(with_it - without) <= math.sqrt(3) / 8 * (1 + 1e-6)


def test_training_after_counting_is_as_if_nothing_was_counted(trainer: Make) -> None:
    made, fresh = (trainer(dropping, *NOISY, *COUNTED) for _ in range(2))
    counts(made, X, Y)
    np.testing.assert_array_equal(train(made), train(fresh))


def test_counting_without_a_federated_evaluation_is_an_error(trainer: Make) -> None:
    with pytest.raises(RuntimeError, match="federated evaluation"):
        counts(trainer(model, *PLAIN), X, Y)


@pytest.mark.parametrize("overrides", [[], ["privacy/record=none"]])
def test_a_client_whose_pass_fails_leaves_nothing_to_the_next(overrides: list[str]) -> None:
    make, shape, letters = MODELS["conv2d"]
    made, fresh = together.trainer(make, *overrides), together.trainer(make, *overrides)
    x, y = records(shape, letters, 6, 1)
    start = vector.read(fresh.model)
    for wrong in (y + 7, y[:3]):
        with pytest.raises((IndexError, ValueError, RuntimeError)):
            made.train(start, x, wrong, Randomness(0), "x")
        got = made.train(start, x, y, Randomness(0), "x")
        np.testing.assert_array_equal(got, fresh.train(start, x, y, Randomness(0), "x"))
