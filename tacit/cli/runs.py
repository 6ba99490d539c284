"""``tacit runs``: what was started in a home, and how it ended."""

from __future__ import annotations

import typer

from tacit.cli.common import HomeOption, JsonOption, open_store, print_json, print_table

app = typer.Typer(help="Runs: how each went.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Runs: how each went."""


@app.command("list")
def list_(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """List runs, oldest first."""
    store = open_store(home)
    plans = {leaf["run"]: leaf["body"] for leaf in store.leaves(kinds=("PLAN",))}
    rows = [
        {**row, "kind": "rollout" if "rollout" in plans.get(row["id"], {}) else "training"}
        for row in store.runs()
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        "runs",
        ["run", "kind", "model", "status", "round", "started", "message"],
        [
            (
                r["id"],
                r["kind"],
                r["name"],
                r["status"],
                r["round"],
                r["created_at"],
                r["message"],
            )
            for r in rows
        ],
    )
