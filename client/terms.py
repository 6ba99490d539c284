"""What a request has to have in common with the plan that a client agreed to.

Needs nothing but the plan, so that a device refuses by the same code as a silo.
"""

from __future__ import annotations

import math

from tacit.privacy.errors import RoundError
from tacit.privacy.plan import PrivacyPlan


def check_plan(plan: PrivacyPlan, digest: str) -> None:
    """Refuses a round under another plan than the client's own.

    Raises:
        RoundError: the digests differ.
    """
    if digest != plan.digest():
        raise RoundError(
            f"the coordinator's plan digest={digest[:12]} isn't this client's {plan.digest()[:12]}",
            "both sides must run the same tacit with the same configuration",
        )


def check_clip(plan: PrivacyPlan, bound: float) -> None:
    """Refuses a clip that the plan doesn't allow.

    Raises:
        RoundError: it isn't positive and finite, or isn't the plan's where that is fixed.
    """
    allowed = plan.client.clip if plan.client is not None else plan.projection
    if allowed is None:
        return
    adaptive = plan.client is not None and plan.client.adaptive is not None
    if (not adaptive and bound != allowed) or not (math.isfinite(bound) and bound > 0):
        raise RoundError(f"the coordinator's clip={bound} isn't one this client's plan allows")
