"""What the built-in census and text tasks reach, with and without privacy, and what is trivial.

Prints the tables of docs/tasks.md: references that see all data in one place (the commonest
answer, scikit-learn's logistic regression and boosting, tables of n-grams), and command lines of
`tacit simulate` over seeds. Run: python benchmarks/baselines.py [--quick] [--only NAME] [--json]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time

import numpy as np
from common import show
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from tacit.configs import build
from tacit.tasks.kjv import ALPHABET
from tacit.tasks.task import Records, load

OPEN = ["mechanism=central", "aggregation=plain", "privacy.client=none", "privacy.record=none"]
# Models are those of aggregation=secure, bit for bit, in less time.
SHARES = ["aggregation=plain"]
PLAIN_SGD = [*OPEN, "cohort=400", "rounds=60", "local.steps=1", "local.learning_rate=1"]
FAST = ["local.steps=2", "local.learning_rate=1", "privacy.record.sampling_rate=0.5"]
CONVOLUTION = ["model=convolution", "local.learning_rate=2", "privacy.client.clip=0.3"]
ROWS = {
    "census": {
        "no privacy": PLAIN_SGD,
        "no privacy, mlp": [*PLAIN_SGD, "model=mlp"],
        "default": SHARES,
        "default, person": [*SHARES, "model=person"],
        "default, mechanism=central": [*SHARES, "mechanism=central"],
    },
    "kjv": {
        "no privacy": [*OPEN, "local.steps=2"],
        "no privacy, convolution": [*OPEN, "model=convolution", *FAST],
        "default": SHARES,
        "default, convolution": [*SHARES, *CONVOLUTION],
        "default, mechanism=central": [*SHARES, "mechanism=central"],
    },
}


def pooled(name: str) -> tuple[Records, Records]:
    """All clients' records in one place, and the test set's."""
    spec = build.compose([f"experiment={name}"])
    task = load(spec)
    assert task.test is not None
    parts = [task.data(client) for client in range(spec.clients)]
    inputs, targets = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return (inputs, targets), task.test()


def references(name: str) -> dict[str, float]:
    """Accuracy of what needs no federation."""
    (x, y), (test_x, test_y) = pooled(name)
    commonest = np.bincount(y.reshape(-1)).argmax()
    found = {"commonest answer": float((np.asarray(test_y) == commonest).mean())}
    if name == "census":
        model = LogisticRegression(max_iter=2000).fit(x, y)
        found["logistic regression, one place"] = float(model.score(test_x, test_y))
        trees = HistGradientBoostingClassifier(random_state=0).fit(x, y)
        found["gradient boosting, one place"] = float(trees.score(test_x, test_y))
    else:
        for order in (2, 3, 4, 5):
            found[f"{order}-grams, one place"] = ngrams(x, y, test_x, test_y, order)
    return found


def ngrams(
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    test_x: NDArray[np.int64],
    test_y: NDArray[np.int64],
    order: int,
) -> float:
    """Accuracy of the commonest character after the last ``order`` - 1."""
    size = len(ALPHABET)
    counts = np.zeros((size ** (order - 1), size), dtype=np.int32)
    np.add.at(counts, (contexts(x, order), np.asarray(y).reshape(-1)), 1)
    guesses = counts.argmax(1)[contexts(test_x, order)]
    return float((guesses == np.asarray(test_y).reshape(-1)).mean())


def contexts(x: NDArray[np.int64], order: int) -> NDArray[np.int64]:
    """The last ``order`` - 1 characters at each position as one number; spaces before."""
    padded = np.pad(np.asarray(x), ((0, 0), (order - 2, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, order - 1, axis=1)
    numbers: NDArray[np.int64] = windows @ len(ALPHABET) ** np.arange(order - 1)
    return numbers.reshape(-1)


def row(name: str, overrides: list[str], seeds: int) -> dict[str, object]:
    """A command line over its seeds."""
    from tacit import simulate

    accuracies, began = [], time.perf_counter()
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as home:
            result = simulate([f"experiment={name}", *overrides, f"seed={seed}"], home=home)
        accuracies.append(result.metrics["accuracy"])
        print(f"{name} {overrides} seed={seed}: {accuracies[-1]:.4f}", file=sys.stderr)
    return {
        "overrides": overrides,
        "accuracies": accuracies,
        "accuracy_mean": statistics.mean(accuracies),
        "epsilon": result.epsilon["client"],
        "delta": result.delta,
        "seconds": (time.perf_counter() - began) / seeds,
    }


def main() -> None:
    """Prints a table for each task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one seed, not three")
    parser.add_argument("--only", choices=list(ROWS), help="this task alone")
    arguments = parser.parse_args()
    seeds = 1 if arguments.quick else 3
    rows, results = [], {}
    for name in [arguments.only] if arguments.only else list(ROWS):
        found = references(name)
        rows += [(f"{name}: {what}", f"{score:.4f}", "", "", "") for what, score in found.items()]
        runs = {what: row(name, overrides, seeds) for what, overrides in ROWS[name].items()}
        for what, run in runs.items():
            accuracies, epsilon = run["accuracies"], run["epsilon"]
            spread = f"{min(accuracies):.4f}..{max(accuracies):.4f}"
            shown = "-" if epsilon is None else f"{epsilon:.2f}"
            mean, seconds = f"{run['accuracy_mean']:.4f}", f"{run['seconds']:.0f}"
            rows.append((f"{name}: {what}", mean, spread, shown, seconds))
        results[name] = {"references": found, "runs": runs}
    show(
        f"accuracy on the public test set, seeds 0..{seeds - 1}",
        ["", "mean", "range", "eps client", "s/run"],
        rows,
        results,
        arguments.json,
    )


if __name__ == "__main__":
    main()
