"""``tacit ledger``: what was charged."""

from __future__ import annotations

from typing import Annotated

import typer

from tacit.cli.common import HomeOption, JsonOption, number, open_store, print_json, print_table

app = typer.Typer(help="What was charged, for which release.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """What was charged, for which release."""


@app.command()
def show(
    run: Annotated[
        str | None, typer.Argument(help="A run's id, a prefix, or last; all runs if left out.")
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Show the leaves, and what they add up to, recomputed from them."""
    store = open_store(home)
    wanted = [store.run(run)] if run is not None else store.runs()
    leaves = store.leaves(wanted[0]["id"] if run is not None else None)
    totals = {row["id"]: store.claims(row["id"]) for row in wanted}
    if as_json:
        print_json({"leaves": leaves, "totals": totals})
        return
    print_table(
        "ledger",
        ["leaf", "at", "run", "kind", "round", "for", "what"],
        [
            (
                leaf["index"],
                leaf["body"]["at"],
                leaf["run"],
                leaf["kind"],
                leaf["body"]["round"],
                leaf["body"]["purpose"],
                _what(leaf["body"]),
            )
            for leaf in leaves
        ],
    )
    for identifier, table in totals.items():
        print_table(
            f"run {identifier}",
            ["unit", "against", "amplified", "epsilon", "cross-check", "delta", "assuming"],
            [
                (
                    c["unit"],
                    c["adversary"],
                    "yes" if c["amplified"] else "no",
                    number(c["epsilon"]),
                    number(c["cross_check"], none=""),
                    f"{c['delta']:.3g}",
                    c["assumes"],
                )
                for c in table
            ],
        )


def _what(body: dict[str, object]) -> str:
    if body["kind"] == "RELEASE":
        name = f"{body['name']}@{body['number']} " if "name" in body else ""
        return f"{name}under charge {body['charge']}"
    if body["kind"] == "ABANDON":
        return f"nothing revealed: {body['reason']}"
    return f"attempt {body['attempt']}, plan {str(body['plan'])[:12]}"
