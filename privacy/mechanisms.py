"""The central mechanisms: clip, sum, noise. Pure functions of vectors and a plan.

Guarantees, with the coordinator trusted to run them:

* `clip` bounds one unit's L2 contribution, whatever the unit submitted; a vector whose norm
  isn't finite contributes nothing.
* `noisy_sum` is the Gaussian mechanism (Dwork and Roth 2014, Theorem A.1; accounted by
  `tacit.privacy.accountant`) on the sum of clipped vectors. Sensitivity: ``clip``, in L2,
  under add-or-remove of one unit.
* `adapt` only post-processes a noised count.

They don't guarantee anything about floating point below one part in 2^20, the margin that
`clip` leaves for rounding.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tacit.privacy import validate
from tacit.privacy.noise import Floats, Source
from tacit.privacy.units import AdaptiveClip

# Rounding in the norm and in the sum stays far below this margin for any model that fits
# in memory, so the real sensitivity is below the nominal one and never above.
MARGIN = 1.0 - 2.0**-20


def clip(vector: NDArray[np.floating], bound: float) -> Floats | None:
    """Scales ``vector`` to L2 norm at most ``bound``; None if its norm isn't finite.

    Args:
        vector: shape [d], any float type.
        bound: L2 bound, finite and > 0.

    Returns:
        Shape [d], float64, norm strictly below ``bound``; the input itself if it is float64
        and within the bound.
    """
    validate.positive("clip", bound)
    wide = np.asarray(vector, dtype=np.float64)
    norm = float(np.linalg.norm(wide))
    if not math.isfinite(norm):
        return None
    limit = bound * MARGIN
    return wide * (limit / norm) if norm > limit else wide


def noisy_sum(total: Floats, bound: float, noise_multiplier: float, source: Source) -> Floats:
    """Adds N(0, (noise_multiplier * bound)^2) to each coordinate of a sum of clipped vectors.

    Args:
        total: shape [d], the sum over the cohort.
        bound: the clip that was enforced, hence the L2 sensitivity.
        noise_multiplier: noise over sensitivity; 0 adds nothing and protects nothing.
        source: of the noise.
    """
    if noise_multiplier == 0:
        return total
    return total + noise_multiplier * bound * source.normal(total.size)


def unclipped_bit(norm: float, bound: float) -> float:
    """A client's vote on the clip: +1/2 if its update wasn't clipped, else -1/2.

    Shifting by 1/2 halves the sensitivity of the count (Andrew et al. 2021, section 3.1).
    """
    return 0.5 if norm <= bound else -0.5


def adapt(bound: float, noisy_bits: float, expected: float, rule: AdaptiveClip) -> float:
    """The next clip, from the noised sum of bits (Andrew et al. 2021, equation 1).

    Args:
        bound: the current clip.
        noisy_bits: sum of the bits of `unclipped_bit` plus noise of ``rule.count_noise``.
        expected: the expected cohort, a fixed denominator.
        rule: target quantile and step.
    """
    fraction = min(1.0, max(0.0, noisy_bits / expected + 0.5))
    return bound * math.exp(-rule.learning_rate * (fraction - rule.quantile))
