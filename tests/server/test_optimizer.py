"""The coordinator's optimizers against torch's and the papers' formulas."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from tacit.configs import build
from tacit.configs.spec import OptimizerSpec
from tacit.server import optimizer


def spec(kind: str, **changes: float) -> OptimizerSpec:
    made = build.compose([f"optimizer={kind}"]).optimizer
    return dataclasses.replace(made, **changes)


def run(how: OptimizerSpec, averages: list[np.ndarray]) -> np.ndarray:
    parameters, moments = np.zeros(averages[0].size), {}
    for average in averages:
        parameters = optimizer.step(how, parameters, average, moments)
    return parameters


AVERAGES = list(np.random.default_rng(0).normal(size=(5, 8)))


def test_fedavg_adds_the_average() -> None:
    np.testing.assert_allclose(
        run(spec("fedavg", learning_rate=0.5), AVERAGES), 0.5 * sum(AVERAGES)
    )


def test_fedavgm_is_torch_momentum_on_the_negative_average() -> None:
    w = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([w], lr=0.7, momentum=0.9)
    for average in AVERAGES:
        w.grad = torch.from_numpy(-average)
        sgd.step()
    ours = run(spec("fedavgm", learning_rate=0.7, momentum=0.9), AVERAGES)
    np.testing.assert_allclose(ours, w.detach().numpy(), rtol=1e-12)


def test_fedadam_is_reddis_algorithm_2() -> None:
    how = spec("fedadam", learning_rate=0.1, beta1=0.8, beta2=0.95, tau=0.01)
    x, m, v = np.zeros(8), np.zeros(8), np.full(8, 0.01**2)
    for d in AVERAGES:
        m = 0.8 * m + 0.2 * d
        v = 0.95 * v + 0.05 * d**2
        x = x + 0.1 * m / (np.sqrt(v) + 0.01)
    np.testing.assert_allclose(run(how, AVERAGES), x, rtol=1e-12)
