"""The form in which an update leaves a client: clipped, weighted, with its vote; encoded."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.privacy import mechanisms
from tacit.privacy.discrete import encoder
from tacit.privacy.discrete.lattice import Lattice
from tacit.privacy.discrete.layers import Shares
from tacit.privacy.messages import Vector
from tacit.privacy.noise import Randomness
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.secagg.secrets import Noise


def prepare(
    update: Vector | NDArray[np.float64], records: int, bound: float, plan: PrivacyPlan
) -> tuple[NDArray[Any], Vector]:
    """A client's vector before it is encoded, and what it submits with ``mechanism=central``.

    Args:
        update: local minus global, shape [d].
        records: the client's records; used only where the plan weights by them.
        bound: this round's clip; ignored without client-level DP.
        plan: of the run.

    Returns:
        The update, shape [d], of L2 norm at most ``bound``, and the vote on the clip, shape
        [1], or [0] without adaptive clipping. An update that isn't finite stays so: it
        counts as zero. In doubles where it came so.
    """
    weight = 1.0 if plan.weight_cap is None else min(records, plan.weight_cap) / plan.weight_cap
    vote = np.zeros(0, dtype=np.float32)
    if plan.noised_by_shares():
        return update, vote
    if plan.client is None:
        return (update * np.float32(weight)).astype(np.float32), vote
    if plan.client.adaptive is not None:
        norm = float(np.linalg.norm(update.astype(np.float64)))
        vote = np.array([mechanisms.unclipped_bit(norm, bound)], dtype=np.float32)
    clipped = mechanisms.clip(update, bound)
    if clipped is None:
        return update, vote
    return (clipped * weight).astype(np.float32), vote


def encoded(
    vector: tuple[NDArray[Any], Vector],
    bound: float,
    lattice: Lattice,
    signs: bytes,
    noise: tuple[str, Noise],
    key: bytes,
) -> NDArray[np.int64]:
    """A vector on the lattice with this client's share of the noise.

    Args:
        vector: the vector, shape [`Lattice.dimension`], and its vote, shape [1] or [0].
        bound: what the lattice's norm stands for.
        lattice: of the plan.
        signs: of the round's rotation.
        noise: the law and this client's seeds.
        key: 32 bytes, of the dither.

    Returns:
        Shape [`Lattice.length`].
    """
    values, vote = vector
    whole = encoder.encode(values, bound, lattice, signs, key)
    if lattice.vote:
        whole = np.append(whole, int(math.copysign(lattice.vote, float(vote.sum()))))
    law, seeds = noise
    shares = Shares(law, lattice.variance, seeds.clients, seeds.layers, lattice.length)
    shares.add(whole, seeds.base, seeds.chain)
    return whole


def own_noise(plan: PrivacyPlan, clients: int, randomness: Randomness, *labels: str | int) -> Noise:
    """This client's seeds where vectors are seen, and no session has given it any."""
    if plan.rules is None:
        raise RuntimeError("the plan has no noise in shares")
    source = randomness.source("shares", *labels)
    return Noise.drawn(clients, plan.rules.layers(clients), source)
