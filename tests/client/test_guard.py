"""`tacit.client.guard`: what can't be trained soundly is refused by name, the rest isn't."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from opacus.layers import DPGRU, DPLSTM, DPMultiheadAttention
from torch import Tensor, nn

from tacit.client import guard
from tacit.client.trainer import Trainer
from tacit.configs.planning import privacy_plan
from tacit.privacy.errors import ModelError, RoundError
from tacit.privacy.noise import Randomness
from tacit.tasks import models, vector

Make = Callable[..., Trainer]
BOTH = pytest.mark.parametrize("record", ["dpsgd", "none"])
X, Y = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3
IMAGES = torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(1))
WORDS = torch.arange(30).reshape(6, 5) % 7


def update(made: Trainer, x: Tensor = X, y: Tensor = Y) -> np.ndarray:
    return made.train(vector.read(made.model), x, y, Randomness(0), "x")


def update_each(made: Trainer, *clients: tuple[Tensor, Tensor]) -> None:
    """Trains one client after another, as a simulation does."""
    for x, y in clients:
        update(made, x, y)


class Words(nn.Module):
    """Embeds words, runs `layer` over them, and classifies the mean."""

    def __init__(self, layer: Callable[[Tensor], Tensor], module: nn.Module | None = None) -> None:
        super().__init__()
        self.embed, self.module, self.head = nn.Embedding(7, 4), module, nn.Linear(4, 3)
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x)).mean(1))


def lstm() -> nn.Module:
    cell = DPLSTM(4, 4, batch_first=True)
    return Words(lambda h: cell(h)[0], cell)


def gru() -> nn.Module:
    cell = DPGRU(4, 4, batch_first=True)
    return Words(lambda h: cell(h)[0], cell)


def attention() -> nn.Module:
    layer = DPMultiheadAttention(4, 2, batch_first=True)
    return Words(lambda h: layer(h, h, h)[0], layer)


class TransformerOfMyOwn(nn.Module):
    """A user's class whose name says Transformer and whose layers are all fine."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(torch.tanh(self.one(x))))


class Direct(nn.Module):
    """Has a parameter of its own, outside any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.ones(5)), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x * self.scale)


def normalised(layer: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3), layer, nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    )


def frozen() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8).requires_grad_(False), nn.Tanh(), nn.Linear(8, 3))


GOOD: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "linear": (lambda: nn.Linear(5, 3), X),
    "layernorm": (lambda: nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3)), X),
    "dropout": (lambda: nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 3)), X),
    "frozen layer": (frozen, X),
    "tied weights": (Tied, X),
    "bare parameter": (Direct, X),
    "groupnorm": (normalised(nn.GroupNorm(2, 4)), IMAGES),
    # The bias before these has no gradient but rounding.
    "groupnorm by channel": (normalised(nn.GroupNorm(4, 4)), IMAGES),
    "instancenorm": (normalised(nn.InstanceNorm2d(4, affine=True)), IMAGES),
    "dplstm": (lstm, WORDS),
    "dpgru": (gru, WORDS),
    "dpattention": (attention, WORDS),
    "a name with Transformer in it": (TransformerOfMyOwn, X),
    "ours: linear": (lambda: models.linear(5, 3, scale=4.0), X),
    "ours: gabor_cnn": (models.gabor_cnn, torch.ones(6, 16, 7, 7) / 28),
    "ours: tanh_cnn": (models.tanh_cnn, torch.sin(torch.arange(6 * 784.0)).reshape(6, 1, 28, 28)),
    "made in evaluation mode": (lambda: nn.Linear(5, 3).eval(), X),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_sound_model_is_trained_with_dp_sgd(trainer: Make, name: str) -> None:
    model, x = GOOD[name]
    got = update(trainer(model), x)
    assert np.isfinite(got).all()
    assert np.linalg.norm(got) > 0


@BOTH
@pytest.mark.parametrize(
    ("layer", "hint"),
    [
        (nn.BatchNorm1d(5), "GroupNorm"),
        (nn.BatchNorm2d(5), "GroupNorm"),
        (nn.BatchNorm1d(5, track_running_stats=False), "GroupNorm"),
        (nn.SyncBatchNorm(5), "GroupNorm"),
        (nn.InstanceNorm1d(5, track_running_stats=True), "track_running_stats=False"),
        # Frozen too: it still normalises by the batch in training.
        (nn.BatchNorm1d(5).requires_grad_(False).eval(), "GroupNorm"),
    ],
)
def test_layers_with_batch_statistics_are_refused_by_name_even_without_dp(
    trainer: Make, layer: nn.Module, hint: str, record: str
) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 5), nn.Sequential(layer), nn.Linear(5, 3))

    with pytest.raises(ModelError, match=rf"'1\.0' \({type(layer).__name__}\)") as caught:
        trainer(model, f"privacy.record={record}")
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("layer", "instead"),
    [
        (nn.LSTM(5, 5), "opacus.layers.DPLSTM"),
        (nn.GRU(5, 5), "opacus.layers.DPGRU"),
        (nn.RNN(5, 5), "opacus.layers.DPRNN"),
        (nn.MultiheadAttention(4, 2), "opacus.layers.DPMultiheadAttention"),
        (nn.TransformerEncoderLayer(4, 2), "opacus.layers.DPMultiheadAttention"),
    ],
)
def test_layers_opacus_cant_take_are_refused_with_what_to_use_instead(
    trainer: Make, layer: nn.Module, instead: str
) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 5), layer)

    with pytest.raises(ModelError, match=rf"layer '1' \({type(layer).__name__}\)") as caught:
        trainer(model)
    assert instead in caught.value.hint
    assert trainer(model, "privacy.record=none").plan.record is None


class Buffered(nn.Module):
    """A trained parameter beside a buffer, which Opacus has no rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5))
        self.register_buffer("scale", torch.ones(5))
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x * self.weight * self.scale)


def test_what_opacus_itself_refuses_is_a_model_error(trainer: Make) -> None:
    with pytest.raises(ModelError):
        update(trainer(Buffered))


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.spare = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


def test_a_parameter_that_isnt_used_is_named(trainer: Make) -> None:
    with pytest.raises(ModelError, match=r"spare\.weight") as caught:
        update(trainer(Unused))
    assert "requires_grad_(False)" in caught.value.hint


LOSSES = {
    "sum": lambda o, y: nn.functional.cross_entropy(o, y, reduction="sum"),
    "none": lambda o, y: nn.functional.cross_entropy(o, y, reduction="none"),
}


@BOTH
@pytest.mark.parametrize(("reduction", "why"), [("sum", "isn't a mean"), ("none", "not a scalar")])
def test_a_loss_that_isnt_a_mean_is_refused(
    trainer: Make, reduction: str, why: str, record: str
) -> None:
    made = trainer(lambda: nn.Linear(5, 3), f"privacy.record={record}", loss=LOSSES[reduction])
    with pytest.raises(ModelError, match=why) as caught:
        update(made)
    assert "mean over the records" in caught.value.hint


def test_a_refusal_says_nothing_of_the_records(trainer: Make) -> None:
    """An error's text leaves the client: neither losses nor gradients belong in it."""
    refused = [
        lambda: trainer(lambda: nn.Linear(5, 3), "privacy.record=none", loss=LOSSES["sum"]),
        lambda: trainer(Centred),
    ]
    for make in refused:
        with pytest.raises(ModelError) as caught:
            update(make())
        assert not any(character.isdigit() for character in caught.value.message)


class Centred(nn.Module):
    """Subtracts the mean of the batch: a record's output depends on the others."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x - x.mean(0))


def test_a_model_whose_records_interact_is_refused(trainer: Make) -> None:
    with pytest.raises(ModelError, match=r"gradients of head\.weight are wrong"):
        update(trainer(Centred))


def test_a_loss_whose_records_interact_is_refused(trainer: Make) -> None:
    def against_the_others(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs - outputs.mean(0), targets)

    with pytest.raises(ModelError, match="are wrong"):
        update(trainer(lambda: nn.Linear(5, 3), loss=against_the_others))


def test_interaction_is_found_though_the_first_client_has_one_record(trainer: Make) -> None:
    made = trainer(Centred)
    with pytest.raises(ModelError):
        update_each(made, (X[:1], Y[:1]), (X, Y))


def convolutions(memory_format: torch.memory_format) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3)
    ).to(memory_format=memory_format)


def test_channels_last_convolutions_are_refused(trainer: Make) -> None:
    # Opacus 1.6.0 computes wrong per-example gradients there and says nothing.
    assert np.isfinite(update(trainer(convolutions(torch.contiguous_format)), IMAGES)).all()
    with pytest.raises(ModelError, match=r"gradients of \d\.weight are wrong") as caught:
        update(trainer(convolutions(torch.channels_last)), IMAGES)
    assert "channels_last" in caught.value.hint


def test_channels_last_inputs_are_refused(trainer: Make) -> None:
    made = trainer(convolutions(torch.contiguous_format))
    with pytest.raises(ModelError, match=r"gradients of \d\.weight are wrong"):
        update(made, IMAGES.contiguous(memory_format=torch.channels_last))


def test_channels_last_is_found_though_the_first_clients_records_arent_numbers(
    trainer: Make,
) -> None:
    made = trainer(convolutions(torch.channels_last))
    with pytest.raises(ModelError):
        update_each(made, (torch.full_like(IMAGES, float("nan")), Y), (IMAGES, Y))


def test_the_check_leaves_no_gradients_and_the_model_in_training(trainer: Make) -> None:
    made = trainer(
        lambda: nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 3)), "local.steps=1"
    )
    assert made._module is not None
    before = vector.read(made.model)
    guard.check_gradients(made.task, made._module, X, Y)
    assert all(p.grad is None and p.grad_sample is None for p in made.model.parameters())
    assert all(layer.training for layer in made.model.modules())
    np.testing.assert_array_equal(vector.read(made.model), before)


def test_another_plan_is_refused_with_both_digests(trainer: Make) -> None:
    plan = trainer(lambda: nn.Linear(5, 3)).plan
    guard.check_plan(plan, plan.digest())
    other = trainer(lambda: nn.Linear(5, 3), "privacy.record.clip=2.0").plan
    with pytest.raises(RoundError, match=re.escape(plan.digest()[:12])) as caught:
        guard.check_plan(plan, other.digest())
    assert other.digest()[:12] in caught.value.message
    for digest in ("", plan.digest()[:12], plan.digest().upper()):
        with pytest.raises(RoundError):
            guard.check_plan(plan, digest)


def test_every_setting_of_the_mechanism_is_in_the_digest(spec_of: Callable[..., object]) -> None:
    overrides = [
        (),
        ("privacy.record.clip=2.0",),
        ("privacy.record.noise_multiplier=0.5",),
        ("privacy.record.sampling_rate=0.5",),
        ("privacy.record.denominator=3.0",),
        ("local.steps=2",),
        ("cohort=6",),
        ("privacy.client=flat",),
        ("privacy.client=adaptive",),
        ("seed=null",),
        ("evaluation=federated",),
        ("privacy.record=none",),
        ("privacy.record=none", "weighting=examples"),
    ]
    digests = {privacy_plan(spec_of(*o), 10, 10).digest() for o in overrides}  # type: ignore[arg-type]
    assert len(digests) == len(overrides)
