"""``tacit audit``: a run with canaries, and what the public finds out, beside the claim."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tacit.cli.bars import rounds_bar
from tacit.cli.common import HomeOption, JsonOption, number, print_json

if TYPE_CHECKING:
    from tacit.simulations.audit import AuditResult

VIOLATED = 3

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings, as for simulate, with optimizer=fedavg put before them."),
]
CanariesOption = Annotated[int, typer.Option("--canaries", metavar="M", help="How many.")]
ConfidenceOption = Annotated[
    float, typer.Option("--confidence", help="That the lower bound is one.")
]


app = typer.Typer(
    help="Empirical audits: what canaries show, held against the claim. Exit status "
    f"{VIOLATED} if the claim is refuted.",
    no_args_is_help=True,
)


@app.command("one-run")
def one_run(
    overrides: Overrides = None,
    unit: Annotated[str, typer.Option("--unit", help="client or record.")] = "client",
    canaries: CanariesOption = 100,
    guesses: Annotated[
        list[int] | None,
        typer.Option("--guesses", help="Guesses on each side; may be given several times."),
    ] = None,
    confidence: ConfidenceOption = 0.95,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """A lower bound on epsilon from coins thrown for each canary (Steinke et al. 2023)."""
    from tacit.privacy import validate

    validate.one_of("unit", unit, ("client", "record"))
    more = {"unit": unit, "canaries": canaries, "guesses": guesses or None}
    _audit("audit_one_run", overrides, more, (home, confidence, as_json))


@app.command("one-shot")
def one_shot(
    overrides: Overrides = None,
    unit: Annotated[str, typer.Option("--unit", help="client.")] = "client",
    canaries: CanariesOption = 100,
    statistic: Annotated[
        str, typer.Option("--statistic", help="final (model) or max (over rounds).")
    ] = "final",
    confidence: ConfidenceOption = 0.95,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """An estimate of epsilon from how far canary clients show (Andrew et al. 2024)."""
    from tacit.privacy import validate

    validate.one_of("unit", unit, ("client",))
    more = {"canaries": canaries, "statistic": statistic}
    _audit("audit_one_shot", overrides, more, (home, confidence, as_json))


def _audit(
    name: str,
    overrides: list[str] | None,
    more: dict[str, Any],
    common: tuple[str | None, float, bool],
) -> None:
    from tacit.configs.build import compose

    home, confidence, as_json = common
    given = ["optimizer=fedavg", *(overrides or [])]
    compose(given)  # A typo should be told before the seconds that torch takes to load.
    from tacit.simulations import audit

    with rounds_bar() as (started, progress):
        result: AuditResult = getattr(audit, name)(
            given,
            home=home,
            confidence=confidence,
            started=started,
            progress=progress,
            **more,
        )
    if as_json:
        print_json(result.to_json())
    else:
        _closing(result)
    if result.violated:
        raise typer.Exit(VIOLATED)


def _closing(result: AuditResult) -> None:
    from tacit.cli.common import print_table

    print_table(
        f"{result.method} audit of run {result.run}: {result.canaries} canaries",
        ["unit", "against", "amplified", "delta", "lower bound", "estimate", "charged"],
        [
            (
                result.unit,
                result.adversary,
                "yes" if result.amplified else "no",
                f"{result.delta:.3g}",
                number(result.lower_bound),
                number(result.estimate, none=""),
                number(result.charged),
            )
        ],
    )
    print(f"confidence  {result.confidence:g}")
    print(f"commitment  {result.commitment}")
    if result.violated:
        print("nothing is released in this home until tacit ledger approve --lifts explains it")
        print("REFUTED: the lower bound is above what was charged")
    elif result.charged is None:
        print("nothing is claimed, so nothing could be refuted")
    else:
        print("not refuted; an audit that finds nothing proves nothing")
