"""Metrics from what a federated evaluation released: noised counts, and nothing else."""

from __future__ import annotations

import numpy as np

from tacit.privacy.noise import Floats
from tacit.privacy.units import Evaluation


def federated_metrics(counts: Floats, how: Evaluation) -> dict[str, float]:
    """Accuracy and loss from noised counts, with the noise's share of their error.

    Args:
        counts: (score, examples, loss) over the cap, summed over the cohort and noised.
        how: the evaluation's plan.

    Returns:
        ``accuracy`` and ``loss``, clamped to their ranges; ``accuracy_noise`` is the
        standard deviation that the noise alone gives the ratio (delta method).
    """
    std = how.noise_multiplier * Evaluation.SENSITIVITY
    examples = max(float(counts[1]), 1.0 / how.cap)
    accuracy = min(1.0, max(0.0, float(counts[0]) / examples))
    loss = min(1.0, max(0.0, float(counts[2]) / examples)) * how.loss_cap
    spread = std * float(np.sqrt(1.0 + accuracy**2)) / examples
    return {"accuracy": accuracy, "loss": loss, "accuracy_noise": min(1.0, spread)}
