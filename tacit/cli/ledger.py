"""``tacit ledger``: what was charged."""

from __future__ import annotations

from typing import Annotated, Any

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
    from tacit.server.actual import at_survivors

    store = open_store(home)
    wanted = [store.run(run)] if run is not None else store.runs()
    leaves = store.leaves(wanted[0]["id"] if run is not None else None)
    totals = {row["id"]: store.claims(row["id"]) for row in wanted}
    actual = {row["id"]: at_survivors(store, row["id"]) for row in wanted}
    if as_json:
        print_json({"leaves": leaves, "totals": totals, "at_survivors": actual})
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
        _totals(f"run {identifier}", table)
        if actual[identifier]:
            _totals("at the survivors there were (the operator's to know)", actual[identifier])


def _totals(title: str, table: list[dict[str, Any]]) -> None:
    """The rows; what they assume is below, since it is too long for a column."""
    notes: list[str] = []
    rows = []
    for c in table:
        if c["assumes"] not in notes:
            notes.append(c["assumes"])
        figures = (number(c["epsilon"]), c["method"] or "", number(c["cross_check"], none=""))
        amplified = "yes" if c["amplified"] else "no"
        note = f"[{notes.index(c['assumes']) + 1}]"
        rows.append((c["unit"], c["adversary"], amplified, *figures, f"{c['delta']:.3g}", note))
    columns = ["unit", "against", "amp.", "epsilon", "by", "check", "delta", "note"]
    print_table(title, columns, rows)
    for i, note in enumerate(notes, 1):
        print(f"[{i}] {note}")


def _what(body: dict[str, object]) -> str:
    if body["kind"] == "RELEASE":
        name = f"{body['name']}@{body['number']} " if "name" in body else ""
        return f"{name}under charge {body['charge']}"
    if body["kind"] == "ABANDON":
        return f"nothing revealed: {body['reason']}"
    return f"attempt {body['attempt']}, plan {str(body['plan'])[:12]}"
