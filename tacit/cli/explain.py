"""``tacit explain``: which features a version rests on, by evaluations without each of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tacit.cli.bars import rollout_bar
from tacit.cli.common import (
    HomeOption,
    JsonOption,
    number,
    open_store,
    print_json,
    print_table,
)


def explain(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="NAME, NAME@NUMBER or NAME@ALIAS.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings that differ from the training's, such as cohort=200."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Evaluations; each is charged once.")] = 10,
    run: Annotated[
        str | None, typer.Option("--run", help="Show what this one has shown, and do nothing.")
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Ask clients' data what each feature is worth: federated, noised, charged."""
    from tacit.privacy.errors import ConfigError

    if (model is None) == (run is None):
        raise ConfigError("tacit explain takes a model, or --run", "tacit models list")
    if run is not None:
        from tacit.server.explain import attributions

        store = open_store(home)
        found = attributions(store, store.run(run)["id"])
    else:
        from tacit.simulations.explain import explain as explaining

        open_store(home).close()
        with rollout_bar() as (started, progress):
            found = explaining(
                model or "",
                rounds=rounds,
                overrides=overrides or [],
                home=home,
                started=started,
                progress=progress,
            )
    if as_json:
        print_json(found)
    else:
        _shown(found)


def _shown(found: dict[str, Any]) -> None:
    columns = ["without", "costs accuracy", "from", "to", "costs loss", "from", "to", ""]
    rows = [
        (
            row["feature"],
            *(_bounds(row["accuracy"])),
            *(_bounds(row["loss"])),
            "" if row["shown"] else "nothing is shown",
        )
        for row in found["features"]
    ]
    which = f"{found['model']}@{found['number']}"
    print_table(
        f"{which}: what its features are worth, {found['rounds']} rounds",
        columns,
        rows,
    )
    print(f"all intervals together at {found['confidence']:.0%}; PLAN leaf {found['leaf']}")
    print(f"run       {found['run']}")


def _bounds(found: dict[str, Any]) -> tuple[str, str, str]:
    return (
        number(found["estimate"], none=""),
        number(found["low"], none="unbounded"),
        number(found["high"], none="unbounded"),
    )
