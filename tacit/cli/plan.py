"""``tacit plan``: what a run will cost, before it is run; or what it may do within a budget."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tacit.cli.common import JsonOption, number, print_claims, print_json, print_table

if TYPE_CHECKING:
    from tacit.cli.planned import Answer, Asked

_POINTS = 24

Option = typer.Option
Population = Annotated[int, Option(help="Clients that may be drawn.")]
Cohort = Annotated[float | None, Option(help="Expected clients in a round.")]
Rounds = Annotated[int | None, Option(help="Training rounds.")]
Epsilon = Annotated[float | None, Option(help="Client level, against the public, amplified.")]
Noise = Annotated[float | None, Option(help="Noise over the clip, on a round's sum.")]
Delta = Annotated[float | None, Option(help="Of epsilon; population^-1.1 if left out.")]
Mechanism = Annotated[
    str, Option(help="gaussian (central), or skellam or discrete_gaussian in shares.")
]
Dimension = Annotated[int | None, Option(help="Trained parameters; for noise in shares.")]
Bits = Annotated[int | None, Option(help="Of a word: 16, 20 or 32; for noise in shares.")]
Survivors = Annotated[int | None, Option(help="Fewest vectors in a sum; for noise in shares.")]
Collusion = Annotated[int | None, Option(help="Clients that side with the coordinator.")]
Dropout = Annotated[float | None, Option(help="Part of a cohort that may drop out.")]
RecordRate = Annotated[
    float | None, Option(help="Probability that a record is in a step's batch, in its client.")
]
RecordSteps = Annotated[int | None, Option(help="DP-SGD steps in one participation; 1.")]
RecordNoise = Annotated[float | None, Option(help="Noise over the clip of a record's gradient.")]
RecordEpsilon = Annotated[float | None, Option(help="Solves for the record's noise multiplier.")]
RecordDelta = Annotated[float | None, Option(help="Of the record's epsilon; delta if left out.")]
Plot = Annotated[
    str | None, Option(metavar="FILE.png", help="Draw epsilon against the rounds into this file.")
]


def plan(
    population: Population,
    cohort: Cohort = None,
    rounds: Rounds = None,
    epsilon: Epsilon = None,
    noise_multiplier: Noise = None,
    delta: Delta = None,
    mechanism: Mechanism = "gaussian",
    dimension: Dimension = None,
    bits: Bits = None,
    minimum_survivors: Survivors = None,
    collusion: Collusion = None,
    dropout: Dropout = None,
    record_sampling_rate: RecordRate = None,
    record_steps: RecordSteps = None,
    record_noise_multiplier: RecordNoise = None,
    record_epsilon: RecordEpsilon = None,
    record_delta: RecordDelta = None,
    plot: Plot = None,
    as_json: JsonOption = False,
) -> None:
    """Plan a run: of epsilon, noise, rounds and cohort give three, and learn the fourth."""
    from tacit.cli.planned import Asked, answered, described

    asked = Asked(
        population=population,
        cohort=cohort,
        rounds=rounds,
        epsilon=epsilon,
        noise_multiplier=noise_multiplier,
        delta=delta,
        mechanism=mechanism,
        dimension=dimension,
        bits=bits,
        minimum_survivors=minimum_survivors,
        collusion=collusion,
        dropout=dropout,
        record_sampling_rate=record_sampling_rate,
        record_steps=record_steps,
        record_noise_multiplier=record_noise_multiplier,
        record_epsilon=record_epsilon,
        record_delta=record_delta,
    )
    if plot is not None:
        _check_plot(plot)
    with _busy():
        answer = answered(asked)
        document = described(answer)
        if plot is not None:
            draw(answer, Path(plot))
            document["plot"] = plot
    if as_json:
        print_json(document)
    else:
        _show(answer, document)


@contextlib.contextmanager
def _busy() -> Iterator[None]:
    from rich.console import Console

    # Shown on a terminal only: large populations at low rates take a minute.
    with Console(stderr=True).status("composing"):
        yield


def _show(answer: Answer, document: dict[str, Any]) -> None:
    from tacit.cli.planned import shares

    asked, point = answer.asked, answer.point
    found = number(document["epsilon"])
    if answer.solved != "epsilon":
        found = f"{document[answer.solved]:.10g}, which spends epsilon = {found}"
    print(f"{answer.solved} = {found}")
    names = ("mechanism", "noise_multiplier", "rounds", "cohort", "population", "sampling_rate")
    records = [name for name in document if name.startswith("record_") and "epsilon" not in name]
    print_table(
        "plan",
        ["setting", "value"],
        [(n, _brief(document[n])) for n in [*names, "delta", *shares(answer.plan), *records]],
    )
    print_claims(f"after {point.rounds} rounds, by {document['accountant']}", answer.rows)
    for note in _notes(asked, document):
        print(note)
    _show_alternatives(document["alternatives"])
    if "plot" in document:
        print(f"plot: {document['plot']}")
    print("a run with this guarantee, given a task and its model:")
    print(f"  tacit simulate {' '.join(document['overrides'])}")


def _brief(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _notes(asked: Asked, document: dict[str, Any]) -> list[str]:
    """What holds for every row."""
    notes = ["amp.: yes counts on the secrecy of who was drawn; no holds if that is known."]
    notes.append(
        "Each attempt at a round that fails is charged again, and so is a federated evaluation."
    )
    if asked.delta is None:
        notes.append(f"delta = population^-1.1 = {document['delta']:.3g}, the default of runs.")
    if "record_steps" in document:
        takes, rounds = document["record_participations"], document["rounds"]
        notes.append(
            f"A record is charged as if its client took part in {takes} of {rounds} rounds, which "
            "any client exceeds with a probability of 1e-6."
        )
        if document["record_delta"] != document["delta"]:
            notes.append("A run states records at the delta of clients; its events are the same.")
    return notes


def _show_alternatives(alternatives: list[dict[str, Any]]) -> None:
    refused = [a["refused"] for a in alternatives if "refused" in a]
    print_table(
        "alternatives",
        ["change", "multiplier", "rounds", "cohort", "epsilon", "noise"],
        [
            (
                a["change"],
                f"{a['noise_multiplier']:g}",
                a["rounds"],
                f"{a['cohort']:g}",
                "no such plan" if "refused" in a else number(a["epsilon"]),
                f"x {a['noise']:.3g}",
            )
            for a in alternatives
        ],
    )
    print("noise: of a round's average, multiplier x clip / cohort, over the plan's own.")
    for reason in dict.fromkeys(refused):
        print(f"no such plan: {reason}")


def _check_plot(path: str) -> None:
    from tacit.privacy.errors import ConfigError

    if not path.lower().endswith(".png"):
        raise ConfigError(f"plot={path} must end in .png")


def draw(answer: Answer, path: Path) -> None:
    """Draws epsilon against rounds, to twice the plan's, with the plan marked.

    Raises:
        StorageError: the file can't be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from tacit.privacy.errors import StorageError
    from tacit.privacy.planner import course

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    last = answer.point.rounds
    found = course(answer.point, _grid(last), answer.family)
    labels = ("amplified: who was drawn is secret", "unamplified: the cohort may be known")
    for i, label in enumerate(labels, 1):
        axes.plot([p[0] for p in found], [p[i] for p in found], label=label)
        here = [p[i] for p in found if p[0] == last]
        axes.plot([last] * len(here), here, "o", color=f"C{i - 1}")
    axes.axvline(last, color="0.5", linestyle="--", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_xlabel("rounds")
    axes.set_ylabel(f"client-level epsilon, delta = {answer.plan.client_delta:.3g}")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend()
    try:
        figure.savefig(path, format="png", dpi=110, metadata={"Software": None})
    except OSError as error:
        raise StorageError(
            f"plot={path} can't be written: {error.strerror or error}", "choose another file"
        ) from error


def _grid(rounds: int) -> Sequence[int]:
    """Where to ask for epsilon: denser at first, where it rises fastest."""
    spread = {round(1 + (2 * rounds - 1) * (i / _POINTS) ** 2) for i in range(_POINTS + 1)}
    return sorted(spread | {rounds})
