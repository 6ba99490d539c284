"""``report.html`` and its PNGs: how accuracy and epsilon went, and what is promised.

The page is one file, opens without a network, and shows nothing that wasn't released under
a charge or is public; the operator's counts stay in the database.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from tacit.server.home import write_durably
from tacit.server.store import Row, Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LABELS = {
    "client": "client",
    "client_unamplified": "client, cohort known",
    "client_coordinator": "client, against the coordinator",
    "record": "record, against the public",
    "record_local": "record, against everybody",
}

EVALUATIONS = {
    "public": "on a public test set, which is nobody's private data and costs no epsilon",
    "federated": "by federated evaluation, noised and charged",
    "none": "not measured",
}


def write(store: Store, run: str, table: Sequence[dict[str, Any]]) -> Path:
    """Writes a run's report; returns the page.

    Args:
        store: of the home.
        run: the run's id.
        table: rows of `Store.claims`.
    """
    row, rounds = store.run(run), store.rounds(run)
    folder, spec = store.home.run(run), json.loads(row["spec"])
    pictures = {"accuracy": _accuracy(rounds), "epsilon": _epsilon(rounds)}
    for name, png in pictures.items():
        write_durably(folder / f"{name}.png", png)
    page = _template("run.html").render(
        run=row,
        plan=json.loads(row["plan"]),
        spec=json.dumps(spec, indent=2),
        evaluation=EVALUATIONS[spec["evaluation"]["kind"]],
        rounds=rounds,
        version=store.versions(run=run)[-1],
        claims=table,
        pictures={n: base64.b64encode(png).decode() for n, png in pictures.items()},
    )
    write_durably(folder / "report.html", page.encode())
    return folder / "report.html"


def compare(results: Sequence[tuple[str, Row]], folder: Path) -> Path:
    """Writes the comparison of a sweep: one table, one plot of accuracy against epsilon.

    Args:
        results: for each run what was varied, and the JSON of its result.
        folder: where the page and the PNG go.
    """
    png = _frontier(results)
    write_durably(folder / "accuracy_epsilon.png", png)
    page = _template("sweep.html").render(results=results, picture=base64.b64encode(png).decode())
    write_durably(folder / "report.html", page.encode())
    return folder / "report.html"


def _template(name: str) -> jinja2.Template:
    loader = jinja2.PackageLoader("tacit.simulations", "templates")
    return jinja2.Environment(loader=loader, autoescape=True).get_template(name)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _axes(x: str, y: str) -> tuple[Figure, Any]:
    # A figure of its own needs no backend; imported only here, a third of a second later.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    if x == "round":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _accuracy(rounds: Sequence[Row]) -> bytes:
    figure, axes = _axes("round", "accuracy")
    measured = [row for row in rounds if "accuracy" in row["metrics"]]
    x = [row["round"] for row in measured]
    y = [row["metrics"]["accuracy"] for row in measured]
    axes.plot(x, y, marker="." if len(x) < 40 else "")
    noise = [row["metrics"].get("accuracy_noise", 0.0) for row in measured]
    if any(noise):
        low = [max(0.0, a - 2 * s) for a, s in zip(y, noise, strict=True)]
        high = [min(1.0, a + 2 * s) for a, s in zip(y, noise, strict=True)]
        axes.fill_between(x, low, high, alpha=0.2, label="2 standard deviations of the noise")
        axes.legend()
    axes.set_ylim(0, 1)
    return _png(figure)


def _epsilon(rounds: Sequence[Row]) -> bytes:
    figure, axes = _axes("round", "epsilon")
    for key, label in _LABELS.items():
        points = [(row["round"], row["epsilon"].get(key)) for row in rounds]
        shown = [(x, y) for x, y in points if y is not None]
        if shown:
            axes.plot(*zip(*shown, strict=True), label=label)
    if axes.lines:
        axes.legend()
        axes.set_ylim(bottom=0)
    else:
        axes.text(0.5, 0.5, "no epsilon is claimed", ha="center", transform=axes.transAxes)
    return _png(figure)


def _frontier(results: Sequence[tuple[str, Row]]) -> bytes:
    """Every run as a dot, seeds of one setting in one colour, and the best of their means."""
    figure, axes = _axes("epsilon", "accuracy")
    groups: dict[str, list[tuple[float, float]]] = {}
    for label, row in results:
        epsilon = row["epsilon"]["client"] or row["epsilon"]["record"]
        accuracy = row["metrics"].get("accuracy")
        if epsilon is not None and accuracy is not None:
            setting = " ".join(part for part in label.split() if not part.startswith("seed="))
            groups.setdefault(setting, []).append((epsilon, accuracy))
    for setting, points in groups.items():
        axes.plot(*zip(*points, strict=True), "o", label=setting or None, alpha=0.7)
    best = frontier([_mean(points) for points in groups.values()])
    if len(best) > 1:
        axes.plot(*zip(*best, strict=True), "k--", linewidth=0.8, label="frontier")
    if len(groups) in range(2, 13):
        axes.legend(fontsize=7)
    return _png(figure)


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (epsilon, accuracy) that no other beats in both, by epsilon."""
    best: list[tuple[float, float]] = []
    for epsilon, accuracy in sorted(points, key=lambda p: (p[0], -p[1])):
        if not best or accuracy > best[-1][1]:
            best.append((epsilon, accuracy))
    return best


def _mean(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    epsilons, accuracies = zip(*points, strict=True)
    return sum(epsilons) / len(points), sum(accuracies) / len(points)
