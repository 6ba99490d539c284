"""``tacit retrain``: a model trained on from what an alias names, as far as the policies allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tacit.cli.bars import rounds_bar
from tacit.cli.common import HomeOption, JsonOption, open_store, print_json
from tacit.cli.simulate import closing

if TYPE_CHECKING:
    from tacit.server.retrain import Proposal


def retrain(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Which; a name.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings that differ from the training's, such as rounds=10."),
    ] = None,
    alias: Annotated[str, typer.Option(help="Whose version it begins with.")] = "champion",
    if_needed: Annotated[
        bool,
        typer.Option("--if-needed", help="Only after a fallback that no training has followed."),
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be done, and do nothing.")
    ] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Retrain over simulated clients, within the budget, or say why not (status 2).

    Settings of --plan --json go to tacit serve or flwr run in a deployment.
    """
    if plan:
        _plan(model, overrides or [], alias, as_json, home)
        return
    from tacit.simulations.retrain import retrain as run

    open_store(home).close()

    def proposed(found: Proposal) -> None:
        if not as_json:
            print(described(found))

    with rounds_bar() as (started, progress):
        result = run(
            model,
            alias=alias,
            overrides=overrides or [],
            if_needed=if_needed,
            home=home,
            proposed=proposed,
            started=started,
            progress=progress,
        )
    if as_json:
        print_json({"needed": result is not None, **(result.to_json() if result else {})})
    elif result is None:
        print(f"{model} needn't be retrained: {alias} hasn't fallen back since it was")
    else:
        closing(result)


def _plan(model: str, overrides: list[str], alias: str, as_json: bool, home: str | None) -> None:
    from tacit.server.retrain import propose

    found = propose(open_store(home), model, alias, overrides)
    if as_json:
        print_json(found.to_json())
    else:
        print(described(found))


def described(found: Proposal) -> str:
    """A retraining, before it is done."""
    why = (
        "because you ask" if found.cause is None else f"because of the fallback, leaf {found.cause}"
    )
    said = f"{found.model} is retrained from {found.initial}, {why}: "
    if not found.refusal:
        return said + f"all {found.planned} rounds are within the policies"
    rounds = found.spec.rounds if found.allowed else 0
    return said + f"{rounds} of {found.planned} rounds; beyond that {found.refusal}"
