"""Discrete noise and the client's whole pipeline: samples and seconds; others' samplers beside.

A sampler's figure is the best of several draws of 2^20 at one size, taken in turns with the
others'. Ours pays for its AES; each draw has a fresh key of the operating system. The others are
what is installed: none of dp-accounting, opacus and flwr has a sampler of the discrete Gaussian,
and scipy only one of the discrete Laplace; torch's and numpy's normals and numpy's Poissons are
of generators that are not cryptographic, seed 0. The pipeline is `tacit.client.update`'s: clip,
rotate, scale, round, check the norm, add a share of the noise, wrap and pack; once with the base
share alone, once with the layers that let a quarter of 100 clients drop out. Seconds are of the
processor, one thread.

Run: python benchmarks/noise.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from common import one_thread, show

SIZE = 2**20
SIGMAS = (4.0, 40.0, 400.0, 3000.0)
MAIN = "tacit Skellam, sigma 40"
CLIENTS, LAYERS, BITS, SEED = 100, 25, 16, 0
# Whose samplers of the discrete Gaussian would be shown, were they installed.
PEERS = ("tensorflow_privacy", "opendp", "diffprivlib")


def best(calls: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    """Seconds of each call: the least of some, in turns."""
    for call in calls.values():
        call()
    found = dict.fromkeys(calls, math.inf)
    for _ in range(repetitions):
        for name, call in calls.items():
            began = time.process_time()
            call()
            found[name] = min(found[name], time.process_time() - began)
    return found


def samplers() -> dict[str, Callable[[], Any]]:
    """Everything that draws 2^20 numbers."""
    import scipy.stats
    import torch

    from tacit.privacy.discrete.pmf import DiscreteGaussian, Skellam
    from tacit.privacy.discrete.table import table
    from tacit.privacy.noise import KeyedStream, SystemSource

    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    rng, source = np.random.default_rng(SEED), SystemSource()
    calls: dict[str, Callable[[], Any]] = {}
    for name, law in (("Skellam", Skellam), ("discrete Gaussian", DiscreteGaussian)):
        for sigma in SIGMAS:
            drawn = table(law(sigma**2))
            calls[f"tacit {name}, sigma {sigma:g}"] = lambda t=drawn: t.sample(SIZE, os.urandom(32))
    calls |= {
        "  of which AES, 2 bytes each": lambda: KeyedStream(os.urandom(32)).read(2 * SIZE),
        "tacit continuous normal (server), float64": lambda: source.normal(SIZE),
        "torch.randn, float32": lambda: torch.randn(SIZE),
        "numpy Generator.normal, float64": lambda: rng.normal(0.0, 40.0, SIZE),
        "numpy Poisson - Poisson, sigma 40": lambda: (
            rng.poisson(800.0, SIZE) - rng.poisson(800.0, SIZE)
        ),
        "scipy.stats.skellam.rvs, sigma 40": lambda: scipy.stats.skellam.rvs(
            800.0, 800.0, size=SIZE, random_state=rng
        ),
        "scipy.stats.dlaplace.rvs, sigma 40": lambda: scipy.stats.dlaplace.rvs(
            math.sqrt(2.0) / 40.0, size=SIZE, random_state=rng
        ),
    }
    return calls


def pipeline() -> dict[str, Callable[[], Any]]:
    """The client's steps at 2^20 parameters, and all of them."""
    from tacit.client.update import encoded
    from tacit.privacy import mechanisms
    from tacit.privacy.discrete import encoder, rotation
    from tacit.privacy.discrete.lattice import Need, sized
    from tacit.privacy.discrete.layers import SEED_BYTES, Shares
    from tacit.privacy.discrete.pmf import Skellam
    from tacit.privacy.discrete.table import table
    from tacit.privacy.noise import KeyedStream
    from tacit.privacy.secagg.secrets import Noise
    from tacit.privacy.secagg.words import Words

    need = Need(
        dimension=SIZE, rotated=True, clients=CLIENTS, noise_multiplier=1.0, conditional=True
    )
    lattice, words, signs = sized(need, BITS), Words(BITS), bytes(32)
    update = np.random.default_rng(SEED).normal(size=SIZE).astype(np.float32)
    vote = np.zeros(0, dtype=np.float32)
    none = np.zeros(SIZE, dtype=np.int64)

    def noise(layers: int) -> Noise:
        return Noise(CLIENTS, layers, os.urandom(32), os.urandom(SEED_BYTES))

    def whole(layers: int) -> bytes:
        clipped = mechanisms.clip(update, 1.0)
        drawn = ("skellam", noise(layers))
        made = encoded((clipped, vote), 1.0, lattice, signs, drawn, os.urandom(32))
        return words.pack(words.from_integers(made))

    def shares(layers: int) -> None:
        seeds = noise(layers)
        drawn = Shares("skellam", lattice.variance, CLIENTS, layers, SIZE)
        drawn.add(none, seeds.base, seeds.chain)

    base = table(Skellam(lattice.variance / CLIENTS))
    single = encoder.encode(update, 1.0, lattice, signs, bytes(32))
    floats = single.astype(np.float32)
    return {
        "pipeline": lambda: whole(0),
        "  clip": lambda: mechanisms.clip(update, 1.0),
        "  encode: scale, rotate, round, check": lambda: encoder.encode(
            update, 1.0, lattice, signs, os.urandom(32)
        ),
        "    rotate": lambda: rotation.rotate(update, signs),
        "    dither, AES": lambda: KeyedStream(os.urandom(32)).read(2 * SIZE),
        "    round": lambda: np.floor(floats).astype(np.float64),
        "  noise, one share": lambda: shares(0),
        f"    draw, sigma {math.sqrt(base.law.variance):.3g}": lambda: base.sample(
            SIZE, os.urandom(32)
        ),
        "  wrap and pack": lambda: words.pack(words.from_integers(single)),
        f"pipeline, {LAYERS} layers for dropouts": lambda: whole(LAYERS),
    }


def main() -> None:
    """Measures samplers and pipeline, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="three repetitions")
    arguments = parser.parse_args()
    one_thread()
    times = 3 if arguments.quick else 15
    drawn, steps = best(samplers(), times), best(pipeline(), times)
    rates = {name.strip(): SIZE / seconds for name, seconds in drawn.items()}
    rows = [(name, 1e3 * s, f"{SIZE / s:.4g}") for name, s in {**drawn, **steps}.items()]
    installed = [name for name in PEERS if importlib.util.find_spec(name)]
    show(
        f"2^20 numbers, the best of {times} in turns, 1 thread; pipeline: {BITS}-bit words, "
        f"{CLIENTS} clients, noise multiplier 1; discrete Gaussian samplers of others "
        f"installed: {', '.join(installed) or 'none'}",
        ["", "ms", "numbers/s"],
        rows,
        {
            "samples_per_second": rates[MAIN],
            "pipeline_seconds": steps["pipeline"],
            "pipeline_layers_seconds": steps[f"pipeline, {LAYERS} layers for dropouts"],
            "rates": rates,
            "pipeline": {name.strip(): seconds for name, seconds in steps.items()},
        },
        arguments.json,
    )


if __name__ == "__main__":
    main()
