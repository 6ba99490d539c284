"""The units that a plan protects, client and record, and what is counted of each client.

A `tacit.privacy.plan.PrivacyPlan` is put together from these. Each says how much one unit may
contribute and how much noise hides it, and is checked when it is made. A multiplier of 0 is
allowed and claims nothing.

They don't say against whom that protects: that takes the whole plan (`tacit.privacy.claims`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError

Unit = Literal["client", "record"]


@dataclass(frozen=True, slots=True)
class AdaptiveClip:
    """Adaptive clipping to a quantile of the updates' norms (Andrew et al. 2021).

    The clients' bits [norm <= clip], shifted to +-1/2, are summed with noise of standard
    deviation ``count_noise``; the clip moves by exp(-learning_rate * (fraction - quantile)).

    Attributes:
        quantile: target fraction of updates that aren't clipped, in (0, 1).
        learning_rate: step of the geometric update, in (0, 10].
        count_noise: standard deviation of the noise on the count, in clients, > 0.
    """

    quantile: float
    learning_rate: float
    count_noise: float

    def __post_init__(self) -> None:
        validate.open_unit("privacy.client.quantile", self.quantile)
        validate.positive("privacy.client.quantile_learning_rate", self.learning_rate)
        if self.learning_rate > 10:
            raise ConfigError(
                f"privacy.client.quantile_learning_rate={self.learning_rate:g} must be at most 10"
            )
        validate.positive("privacy.client.count_noise", self.count_noise)


@dataclass(frozen=True, slots=True)
class ClientUnit:
    """Client-level DP: each update is clipped as a whole, noise is added to the sum.

    Attributes:
        clip: L2 bound of one client's update; the first one where clipping is adaptive.
        noise_multiplier: noise over sensitivity of everything a training round releases
            together (with adaptive clipping, the update sum and the count); >= 0, where 0
            claims nothing.
        adaptive: None for a fixed clip.
    """

    clip: float
    noise_multiplier: float
    adaptive: AdaptiveClip | None = None

    def __post_init__(self) -> None:
        validate.positive("privacy.client.clip", self.clip)
        validate.nonnegative("privacy.client.noise_multiplier", self.noise_multiplier)
        if self.adaptive and self.noise_multiplier > 0:
            least = self.noise_multiplier / 2
            if self.adaptive.count_noise <= least:
                raise ConfigError(
                    f"privacy.client.count_noise={self.adaptive.count_noise} must be greater "
                    f"than noise_multiplier/2={least:g}",
                    "else the count alone would spend more than the round may",
                )

    def update_noise_multiplier(self) -> float:
        """Noise multiplier of the update sum alone, so that with the count it is the whole.

        Andrew et al. 2021, Theorem 1: z_update = (z^-2 - (2 sigma_b)^-2)^(-1/2); the count
        has sensitivity 1/2.
        """
        z = self.noise_multiplier
        if self.adaptive is None or z == 0:
            return z
        return 1.0 / math.sqrt(z**-2 - (2.0 * self.adaptive.count_noise) ** -2)


@dataclass(frozen=True, slots=True)
class RecordUnit:
    """Record-level DP: DP-SGD inside each client (Abadi et al. 2016).

    Attributes:
        clip: L2 bound of one record's gradient.
        noise_multiplier: noise over ``clip`` on the sum of one step; >= 0, where 0 claims
            nothing.
        sampling_rate: probability that a record is in a step's batch, drawn by the client.
        steps: steps in one participation.
        denominator: what the noised sum is divided by; the same for all clients, because a
            client's size is itself private under add-or-remove.
    """

    clip: float
    noise_multiplier: float
    sampling_rate: float
    steps: int
    denominator: float

    def __post_init__(self) -> None:
        validate.positive("privacy.record.clip", self.clip)
        validate.nonnegative("privacy.record.noise_multiplier", self.noise_multiplier)
        validate.rate("privacy.record.sampling_rate", self.sampling_rate)
        validate.at_least("local.steps", self.steps, 1)
        validate.positive("privacy.record.denominator", self.denominator)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Federated evaluation: clipped counts of each client, noised and summed.

    A client submits (correct, examples, loss) / cap over at most ``cap`` of its records,
    the loss of a record clipped to [0, 1] after division by ``loss_cap``: L2 norm at most
    sqrt(3) for a client and sqrt(3)/cap for a record.

    Attributes:
        every: evaluate after every so many training rounds, and after the last.
        cap: most records of one client that count.
        loss_cap: loss of one record above which it counts as this much.
        noise_multiplier: noise over the client-level sensitivity sqrt(3).
    """

    every: int
    cap: int
    loss_cap: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        validate.at_least("evaluation.every", self.every, 1)
        validate.at_least("evaluation.cap", self.cap, 1)
        validate.positive("evaluation.loss_cap", self.loss_cap)
        validate.nonnegative("evaluation.noise_multiplier", self.noise_multiplier)

    SENSITIVITY = math.sqrt(3.0)
