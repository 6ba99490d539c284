"""``tacit rollout``: versions evaluated beside each other over simulated clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tacit.cli.bars import rollout_bar
from tacit.cli.common import (
    HomeOption,
    JsonOption,
    number,
    open_store,
    print_claims,
    print_json,
    print_table,
    written,
)

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
    plan: Annotated[
        str | None,
        typer.Option(
            "--plan", metavar="FILE", help="Write what a deployment is to do, and do nothing here."
        ),
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Evaluate versions on cohorts of clients: clipped, noised, summed, charged.

    Here over simulated clients; with --plan FILE it is for tacit serve --rollout FILE, or for
    silos: ROLLOUT=FILE run.sh.

    A watch ends when the alias falls back, as its gate asks. See docs/rollout.md.
    """
    from tacit.privacy.errors import ConfigError

    if resume is not None and (model is not None or challenger is not None):
        raise ConfigError(
            "--resume takes no model and no settings: a rollout goes on as it was started",
            "start a new one to change something",
        )
    if plan is not None:
        if model is None:
            raise ConfigError(
                "--plan needs a model", "a rollout that was begun is resumed by its id"
            )
        terms = {"challenger": challenger, "alias": alias, "share": share}
        _planned(plan, (model, mode, rounds, overrides or []), terms, home)
        return
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


def _planned(
    to: str, what: tuple[str, str, int, list[str]], terms: dict[str, Any], home: str | None
) -> None:
    """Writes what a deployment is to do."""
    import contextlib

    from tacit.server import rollouts
    from tacit.server.begin import RolloutFile

    model, mode, rounds, overrides = what
    with contextlib.closing(open_store(home)) as store:
        made = rollouts.plan(store, model, mode, **terms)
        spec = rollouts.spec(store, made, rounds, overrides)
    written(to, RolloutFile(spec, made).text().encode())


def _closing(found: Outcome) -> None:
    shown = found.rollout
    print_table(
        f"{shown['model']}: {shown['mode']}, {found.status} after {shown['rounds']} rounds",
        ["version", "share", "rounds", "accuracy", "loss"],
        [
            (
                f"{shown['model']}@{arm['number']}",
                f"{arm['share']:g}",
                len(arm["windows"]),
                _interval(arm["accuracy"]),
                _interval(arm["loss"]),
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


def _interval(found: dict[str, Any]) -> str:
    """An estimate with its interval, at 95%."""
    if found["low"] is None or found["high"] is None:
        return "unbounded"
    return f"{number(found['estimate'])} ({number(found['low'])} to {number(found['high'])})"
