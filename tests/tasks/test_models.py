"""`tacit.tasks.models`: the sizes and starting points that are promised."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tacit.privacy.errors import ConfigError
from tacit.tasks import models


def test_linear_starts_from_zero() -> None:
    outputs = models.linear(64, 10)(torch.randn(3, 8, 8))
    assert torch.equal(outputs, torch.zeros(3, 10))


def test_tanh_cnn_is_papernots_26010_parameters() -> None:
    model = models.tanh_cnn()
    assert sum(p.numel() for p in model.parameters()) == 26010
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    assert models.tanh_cnn(4)(torch.randn(2, 1, 28, 28)).shape == (2, 4)


def test_gabor_cnn_has_10170_parameters_and_starts_from_zero() -> None:
    model = models.gabor_cnn()
    assert sum(p.numel() for p in model.parameters()) == 10170
    assert torch.equal(model(torch.randn(2, 16, 7, 7)), torch.zeros(2, 10))


def test_linear_scales_its_input() -> None:
    plain, scaled = models.linear(4, 2), models.linear(4, 2, scale=3.0)
    for model in (plain, scaled):
        nn.init.ones_(model[-1].weight)
    x = torch.randn(5, 4)
    torch.testing.assert_close(scaled(x), 3 * plain(x))


def test_a_model_is_chosen_by_name_or_is_the_first() -> None:
    one, two = (nn.Identity, models.as_it_is), (nn.Flatten, models.as_it_is)
    choices = {"one": one, "two": two}
    assert models.choose(choices, None) is one
    assert models.choose(choices, "two") is two
    with pytest.raises(ConfigError, match="model=three must be one of one, two"):
        models.choose(choices, "three")
