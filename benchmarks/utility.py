"""Accuracy at a given epsilon: what docs/results.md quotes.

Each row is a command line of `tacit simulate`, run over seeds. Run:
python benchmarks/utility.py [--only NAME ...] [--seeds N] [--json]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time

from common import show

CENTRAL = ["mechanism=central", "aggregation=plain"]
# Noise in shares; the models are those of aggregation=secure, bit for bit, in less time.
SHARES = ["mechanism=skellam", "aggregation=plain", "secure.bits=16"]
DIGITS = ["experiment=digits", *CENTRAL, "privacy.client.noise_multiplier=1.2"]
RECORD = ["experiment=fashion_mnist", "evaluation.every=10"]
FASHION = [*RECORD, *CENTRAL, "privacy.record.noise_multiplier=0.143"]
CLIENT = [
    "experiment=fashion_mnist",
    "model=gabor_linear",
    "clients=1000",
    "cohort=100",
    "rounds=100",
    "privacy.client=flat",
    "privacy.client.clip=1.0",
    "delta=null",
    "optimizer=fedavgm",
    "optimizer.learning_rate=1.0",
    "optimizer.momentum=0.9",
    "evaluation.every=10",
]
TWO_STEPS = [
    "privacy.record.noise_multiplier=0",
    "privacy.record.sampling_rate=1.0",
    "local.steps=2",
    "local.learning_rate=16",
]
ROWS = {
    "digits: default (skellam, secure, 16 bits)": ["experiment=digits"],
    "digits: central": DIGITS,
    "digits: + record noise 0.04": [*DIGITS, "privacy.record.noise_multiplier=0.04"],
    "digits: + record noise 0.5": [*DIGITS, "privacy.record.noise_multiplier=0.5"],
    "digits: Dirichlet(0.1)": [*DIGITS, "partition=dirichlet", "partition.alpha=0.1"],
    "digits: no privacy": [*CENTRAL, "privacy.client=none", "privacy.record=none"],
    "fashion: record, in the sum, skellam 16 bits": [*RECORD, *SHARES],
    "fashion: record, in the sum, central": FASHION,
    "fashion: record, in the sum, linear": [
        *FASHION,
        "model=gabor_linear",
        "local.learning_rate=32",
        "optimizer=fedavgm",
        "optimizer.learning_rate=1.0",
        "optimizer.momentum=0.9",
    ],
    "fashion: record, in the sum, CNN on pixels": [
        *FASHION,
        "model=tanh_cnn",
        "optimizer.learning_rate=0.01",
    ],
    "fashion: record, each vector alone": [
        *FASHION,
        "model=gabor_linear",
        "rounds=40",
        "privacy.record.noise_multiplier=8.82",
        "privacy.record.sampling_rate=1.0",
        "optimizer=fedavgm",
        "optimizer.learning_rate=16.0",
        "optimizer.momentum=0.9",
        "evaluation.every=10",
    ],
    "fashion: client, 1,000 clients, skellam 16 bits": [
        *CLIENT,
        *SHARES,
        *TWO_STEPS,
        "privacy.client.noise_multiplier=0.908",
    ],
    "fashion: client, 1,000 clients, central": [
        *CLIENT,
        *CENTRAL,
        *TWO_STEPS,
        "privacy.client.noise_multiplier=0.82",
    ],
    "fashion: both units": [
        *CLIENT,
        *CENTRAL,
        "privacy.client.noise_multiplier=0.82",
        "privacy.record.noise_multiplier=1.0",
        "privacy.record.sampling_rate=1.0",
        "local.steps=1",
        "local.learning_rate=4",
    ],
}


def main() -> None:
    """Runs every row over the seeds and prints a table."""
    from tacit import simulate

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="rows whose name starts so")
    arguments = parser.parse_args()
    rows, results = [], {}
    for name, overrides in ROWS.items():
        if arguments.only and not any(name.startswith(word) for word in arguments.only):
            continue
        accuracies, epsilon, began = [], {}, time.perf_counter()
        for seed in range(arguments.seeds):
            with tempfile.TemporaryDirectory() as home:
                result = simulate([*overrides, f"seed={seed}"], home=home)
            accuracies.append(result.metrics["accuracy"])
            epsilon = result.epsilon
            print(f"{name} seed={seed}: {accuracies[-1]:.4f}", file=sys.stderr, flush=True)
        seconds = (time.perf_counter() - began) / arguments.seeds
        mean = statistics.mean(accuracies)
        results[name] = {
            "overrides": overrides,
            "accuracy_mean": mean,
            "accuracies": accuracies,
            "epsilon": epsilon,
            "delta": result.delta,
            "seconds": seconds,
        }
        figures = [
            "-" if epsilon[k] is None else f"{epsilon[k]:.2f}"
            for k in ("client", "record", "record_local")
        ]
        spread = f"{min(accuracies):.4f}..{max(accuracies):.4f}"
        rows.append((name, f"{mean:.4f}", spread, *figures, f"{seconds:.0f}"))
    show(
        f"accuracy on the public test set, seeds 0..{arguments.seeds - 1}",
        ["", "mean", "range", "eps client", "eps record", "eps record, local", "s/run"],
        rows,
        {"rows": results},
        arguments.json,
    )


if __name__ == "__main__":
    main()
