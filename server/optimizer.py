"""The coordinator's optimizers: FedAvg, FedAvgM (Hsu et al. 2019), FedAdam (Reddi et al. 2021).

All of them post-process a noised average, so they cost no privacy.
"""

from __future__ import annotations

import numpy as np

from tacit.configs.spec import OptimizerSpec
from tacit.privacy.noise import Floats

Moments = dict[str, Floats]


def step(spec: OptimizerSpec, parameters: Floats, average: Floats, moments: Moments) -> Floats:
    """The next global model.

    Args:
        spec: which optimizer, and its constants.
        parameters: the global model, shape [d].
        average: the noised average update, local minus global, shape [d].
        moments: the optimizer's memory, updated in place; empty before the first round.

    Returns:
        Shape [d], float64.
    """
    if spec.kind == "fedavg":
        return parameters + spec.learning_rate * average
    if spec.kind == "fedavgm":
        momentum = moments.get("momentum", np.zeros_like(average))
        moments["momentum"] = spec.momentum * momentum + average
        return parameters + spec.learning_rate * moments["momentum"]
    first = moments.get("first", np.zeros_like(average))
    second = moments.get("second", np.full_like(average, spec.tau**2))
    moments["first"] = spec.beta1 * first + (1 - spec.beta1) * average
    moments["second"] = spec.beta2 * second + (1 - spec.beta2) * average**2
    return parameters + spec.learning_rate * moments["first"] / (
        np.sqrt(moments["second"]) + spec.tau
    )
