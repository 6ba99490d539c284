"""The form in which an update leaves a client: clipped, weighted, with its vote."""

from __future__ import annotations

import numpy as np

from tacit.privacy import mechanisms
from tacit.privacy.messages import Vector
from tacit.privacy.plan import PrivacyPlan


def prepare(update: Vector, records: int, bound: float, plan: PrivacyPlan) -> tuple[Vector, Vector]:
    """What a client submits.

    Args:
        update: local minus global, shape [d].
        records: the client's records; used only where the plan weights by them.
        bound: this round's clip; ignored without client-level DP.
        plan: of the run.

    Returns:
        The update, shape [d], of L2 norm at most ``bound``, and the vote on the clip, shape
        [1], or [0] without adaptive clipping. An update that isn't finite stays so: the
        coordinator counts it as zero and tells its operator.
    """
    weight = 1.0 if plan.weight_cap is None else min(records, plan.weight_cap) / plan.weight_cap
    vote = np.zeros(0, dtype=np.float32)
    if plan.client is None:
        return (update * np.float32(weight)).astype(np.float32), vote
    if plan.client.adaptive is not None:
        norm = float(np.linalg.norm(update.astype(np.float64)))
        vote = np.array([mechanisms.unclipped_bit(norm, bound)], dtype=np.float32)
    clipped = mechanisms.clip(update, bound)
    if clipped is None:
        return update, vote
    return (clipped * weight).astype(np.float32), vote
