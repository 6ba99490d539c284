"""`tacit.tasks.models`: the sizes and starting points that are promised."""

from __future__ import annotations

import torch

from tacit.tasks import models


def test_linear_starts_from_zero() -> None:
    outputs = models.linear(64, 10)(torch.randn(3, 8, 8))
    assert torch.equal(outputs, torch.zeros(3, 10))


def test_tanh_cnn_is_papernots_26010_parameters() -> None:
    model = models.tanh_cnn()
    assert sum(p.numel() for p in model.parameters()) == 26010
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    assert models.tanh_cnn(4)(torch.randn(2, 1, 28, 28)).shape == (2, 4)
