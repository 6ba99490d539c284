"""``tacit rollout``: versions evaluated beside each other over simulated clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tacit.cli.bars import rollout_bar
from tacit.cli.common import HomeOption, JsonOption, number, print_claims, print_json, print_table

if TYPE_CHECKING:
    from tacit.simulations.rollout import Outcome


def rollout(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Whose versions; a name.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings that differ from the training's, such as cohort=200."),
    ] = None,
    challenger: Annotated[
        int | None, typer.Option(metavar="N", help="The version that is compared; or watched.")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="shadow (in turns), ab, canary, or watch (one version).")
    ] = "shadow",
    rounds: Annotated[int, typer.Option(min=1, help="Evaluations; each is charged.")] = 10,
    alias: Annotated[str, typer.Option(help="Whose version is the champion.")] = "champion",
    share: Annotated[
        float | None, typer.Option(help="Of the cohort for the challenger: ab 0.5, canary 0.1.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", metavar="RUN", help="Go on with a rollout: its id, or last."),
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Evaluate versions on cohorts of clients: clipped, noised, summed, charged.

    A watch ends when the alias falls back, as its gate asks. See docs/rollout.md.
    """
    from tacit.privacy.errors import ConfigError

    if resume is not None and (model is not None or challenger is not None):
        raise ConfigError(
            "--resume takes no model and no settings: a rollout goes on as it was started",
            "start a new one to change something",
        )
    from tacit.simulations.rollout import rollout as run

    with rollout_bar() as (started, progress):
        found = run(
            model,
            challenger=challenger,
            mode=mode,
            rounds=rounds,
            alias=alias,
            share=share,
            overrides=overrides or [],
            home=home,
            resume=resume,
            started=started,
            progress=progress,
        )
    if as_json:
        print_json(found.to_json())
    else:
        _closing(found)


def _closing(found: Outcome) -> None:
    shown = found.rollout
    print_table(
        f"{shown['model']}: {shown['mode']}, {found.status} after {shown['rounds']} rounds",
        ["version", "share", "rounds", "accuracy", "from", "to", "loss", "from", "to"],
        [
            (
                f"{shown['model']}@{arm['number']}",
                f"{arm['share']:g}",
                len(arm["windows"]),
                *_interval(arm["accuracy"]),
                *_interval(arm["loss"]),
            )
            for arm in shown["arms"]
        ],
    )
    if found.message:
        print(found.message)
    if found.verdict is not None:
        evidence = ",".join(map(str, found.evidence))
        print(f"gate      {found.verdict}: {found.why}")
        print(f"evidence  {evidence}")
    print_claims("what the rollout was charged", found.claims)
    print(f"run       {found.run}")


def _interval(found: dict[str, Any]) -> tuple[str, str, str]:
    bounds = (number(found[name], none="unbounded") for name in ("low", "high"))
    return (number(found["estimate"], none=""), *bounds)  # type: ignore[return-value]
