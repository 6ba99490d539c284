"""``tacit gate``: what a version has to show before an alias may name it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tacit.cli.common import HomeOption, JsonOption, open_store, print_json, print_table

app = typer.Typer(
    help="Gates: what a version has to show before an alias may name it.", no_args_is_help=True
)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Whose alias; a name.")]
Alias = Annotated[str, typer.Option(help="That is guarded.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="For whoever reads the ledger.")]


@app.command("set")
def set_(
    model: Model,
    reason: Reason,
    alias: Alias = "champion",
    metric: Annotated[str, typer.Option(help="accuracy or loss.")] = "accuracy",
    at_least: Annotated[float | None, typer.Option(help="Floor of the accuracy.")] = None,
    at_most: Annotated[float | None, typer.Option(help="Ceiling of the loss.")] = None,
    margin: Annotated[
        float | None, typer.Option(help="By how much it may be worse than what the alias names.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of all intervals together.")] = 0.95,
    windows: Annotated[
        int, typer.Option(help="Evaluations of each version that are read, at least 2.")
    ] = 5,
    fallback_rounds: Annotated[
        int, typer.Option(help="Watched rounds in a row beyond the bound, then it falls back.")
    ] = 3,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Guard an alias from here on: a GATE leaf. Rollouts planned before it are no evidence."""
    from tacit.privacy.gates import Gate
    from tacit.server import actors
    from tacit.server.gates import Gates

    gate = Gate(
        model=model,
        alias=alias,
        metric=metric,
        at_least=at_least,
        at_most=at_most,
        margin=margin,
        confidence=confidence,
        windows=windows,
        fallback_rounds=fallback_rounds,
    )
    leaf = Gates(open_store(home)).set(gate, actor=actors.current(), reason=reason)
    if as_json:
        print_json({"leaf": leaf, "gate": gate.to_json()})
    else:
        print(f"leaf {leaf}: {model}@{alias} needs {gate.in_words()}")


@app.command()
def lift(
    model: Model,
    reason: Reason,
    alias: Alias = "champion",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Guard an alias no longer: a GATE leaf that says so."""
    from tacit.server import actors
    from tacit.server.gates import Gates

    leaf = Gates(open_store(home)).lift(model, alias, actor=actors.current(), reason=reason)
    if as_json:
        print_json({"leaf": leaf, "gate": None})
    else:
        print(f"leaf {leaf}: {model}@{alias} has no gate")


@app.command()
def show(model: Model, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Show a model's gates, and what each says of the versions that were rolled out."""
    from tacit.server.views import rollouts as views

    store = open_store(home)
    found = {"gates": views.guards(store, model), "rollouts": views.rollouts(store, model)}
    if as_json:
        print_json(found)
        return
    for gate in found["gates"]:
        print(f"{model}@{gate['alias']} (leaf {gate['leaf']}): {gate['in_words']}")
        print_table(
            f"against version {gate['champion']}",
            ["version", "verdict", "why", "evidence"],
            [
                (d["number"], d["verdict"], _why(d), ", ".join(map(str, d["evidence"])))
                for d in gate["decisions"]
            ],
        )
    print_table(
        "rollouts",
        ["run", "mode", "versions", "rounds", "status"],
        [
            (
                r["run"],
                r["mode"],
                ", ".join(str(arm["number"]) for arm in r["arms"]),
                f"{r['rounds']} of {r['planned']}",
                r["status"],
            )
            for r in found["rollouts"]
        ],
    )


def _why(decision: dict[str, Any]) -> str:
    said = [decision["why"]] if decision.get("why") else []
    for condition in decision.get("conditions", []):
        low, high = condition["interval"]["low"], condition["interval"]["high"]
        bounds = "unbounded" if low is None or high is None else f"[{low:.4f}, {high:.4f}]"
        said.append(f"{condition['name']}={condition['threshold']:g}: {bounds}")
    return "; ".join(said)
