"""Draws docs/images/digits.png: accuracy against client-level epsilon on digits.

Run: python benchmarks/figures.py (`make figures`); about eight minutes. Noise in shares, without
the cryptography: the models are those of secure aggregation, bit for bit.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from tacit import simulate

MULTIPLIERS = (0.9, 1.325, 2.0, 3.0, 5.0)
FREE = ["mechanism=central", "privacy.client=none", "privacy.record=none"]
TARGET = Path(__file__).parents[1] / "docs" / "images" / "digits.png"


def main() -> None:
    """Five noise multipliers, three seeds each, and the runs without privacy as a line."""
    mpl.use("Agg")
    points: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as home:
        for z in MULTIPLIERS:
            for seed in range(3):
                settings = [f"privacy.client.noise_multiplier={z}", f"seed={seed}"]
                settings.append("aggregation=plain")
                result = simulate(settings, home=home)
                assert result.epsilon["client"] is not None
                points.append((result.epsilon["client"], result.metrics["accuracy"]))
        free = [
            simulate([*FREE, "aggregation=plain", f"seed={seed}"], home=home).metrics["accuracy"]
            for seed in range(3)
        ]
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(sum(free) / 3, color="0.5", linestyle="--", label="no privacy, mean of 3 seeds")
    axes.plot(*zip(*points, strict=True), "o", alpha=0.7, label="tacit, each run")
    means = [
        (points[i][0], sum(y for _, y in points[i : i + 3]) / 3) for i in range(0, len(points), 3)
    ]
    axes.plot(*zip(*means, strict=True), color="C0", label="tacit, mean of 3 seeds")
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10], ["1", "2", "5", "10"])
    axes.set_xlabel("client-level epsilon against the public, delta = 300^-1.1")
    axes.set_ylabel("accuracy")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend()
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(TARGET, dpi=110, metadata={"Software": None})
    for epsilon, accuracy in means:
        print(f"epsilon {epsilon:.2f}: accuracy {accuracy:.4f}")
    print(f"no privacy: {sum(free) / 3:.4f}")


if __name__ == "__main__":
    main()
