"""``tacit ledger``: what was charged, whether it is true, and proofs for others."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tacit.cli import policy
from tacit.cli.common import (
    HomeOption,
    JsonOption,
    open_store,
    print_claims,
    print_json,
    print_table,
    read_text,
    recorded,
    written,
)

app = typer.Typer(
    help="What was charged, for which release, and whether it holds.", no_args_is_help=True
)
policy.register(app)

Kept = Annotated[
    list[str] | None,
    typer.Option("--checkpoint", metavar="FILE", help="A checkpoint that somebody kept."),
]
To = Annotated[str | None, typer.Option("--to", metavar="FILE", help="Where to write it.")]


@app.callback()
def _group() -> None:
    """What was charged, for which release, and whether it holds."""


@app.command()
def show(
    run: Annotated[
        str | None, typer.Argument(help="A run's id, a prefix, or last; all runs if left out.")
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Show the leaves, and what they add up to, recomputed from them."""
    from rich.markup import escape

    from tacit.server.actual import at_survivors

    store = open_store(home)
    wanted = [store.run(run)] if run is not None else store.runs()
    recorded(store, "show", "ledger" if run is None else f"ledger of {wanted[0]['id']}")
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
                leaf["body"].get("round"),
                leaf["body"].get("purpose"),
                escape(_what(leaf["body"])),
            )
            for leaf in leaves
        ],
    )
    for identifier, table in totals.items():
        print_claims(f"run {identifier}", table)
        if actual[identifier]:
            print_claims("at the survivors there were (the operator's to know)", actual[identifier])


@app.command()
def verify(
    kept: Kept = None,
    pinned: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="KEY", help="A key you know the ledger by."),
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Check the whole home against its log: every row, every model, every signature."""
    from rich.progress import Progress, TextColumn

    from tacit.privacy.log.command import described
    from tacit.server import check

    store = open_store(home)
    notes = [read_text(name) for name in kept or []]
    with Progress(TextColumn("{task.completed} leaves"), transient=True, console=stderr()) as bar:
        task = bar.add_task("verify", total=None)
        report = check.verify(
            store, notes, pinned, progress=lambda n: bar.update(task, completed=n)
        )
    if as_json:
        print_json(report.to_json())
    else:
        print(described(report))
    raise typer.Exit(0 if report.holds else 1)


@app.command()
def checkpoint(
    to: To = None,
    key: Annotated[
        bool, typer.Option("--key", help="Print the ledger's public key instead.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Print the newest signed checkpoint: keep it, and nobody can take leaves back unnoticed."""
    store = open_store(home)
    note = f"{store.signer.verifier}\n" if key else store.checkpoint()
    if to is None:
        print(note, end="")
    else:
        written(to, note.encode())


@app.command()
def prove(
    leaf: Annotated[
        int | None, typer.Argument(help="The leaf's number, as in tacit ledger show.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A checkpoint: prove that the ledger only grew since."),
    ] = None,
    to: To = None,
    home: HomeOption = None,
) -> None:
    """Prove that one leaf is in the ledger, or that it only grew, without showing leaves (JSON)."""
    import json

    from tacit.privacy.errors import ConfigError
    from tacit.server import exports

    if leaf is not None and since is None:
        store = open_store(home)
        recorded(store, "prove", f"ledger leaf {leaf}")
        made = exports.prove(store, leaf)
    elif leaf is None and since is not None:
        made = exports.prove_since(open_store(home), read_text(since))
    else:
        raise ConfigError(
            f"leaf={leaf} and since={since}: prove takes one of them",
            "a leaf's number, or --since and a checkpoint's file",
        )
    text = json.dumps(made)
    if to is None:
        print(text)
    else:
        written(to, f"{text}\n".encode())


@app.command()
def export(
    to: Annotated[str, typer.Option("--to", metavar="FILE", help="Where to write the bundle.")],
    artifacts: Annotated[
        str, typer.Option(help="Models that go along: none, newest (of each run) or all.")
    ] = "none",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Write the whole ledger to one file, which tacit-verify checks anywhere."""
    from tacit.server.exports import export as exported

    store = open_store(home)
    recorded(store, "export", "ledger")
    found = exported(store, to, artifacts)
    if as_json:
        print_json(found)
    else:
        print(f"{found['leaves']} leaves -> {to} (sha256 {found['sha256']})")
        print(f"check it with: tacit-verify {to} --key '{found['key']}'")


@app.command()
def diff(
    old: Annotated[str, typer.Argument(help="A bundle from earlier.")],
    new: Annotated[
        str | None, typer.Argument(help="A later bundle; this home if left out.")
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Show what was appended since, and how much more was spent; fails if anything changed."""
    from rich.markup import escape

    from tacit.server.exports import difference

    store = None if new is not None else open_store(home)
    if store is not None:
        recorded(store, "diff", "ledger")
    found = difference(old, new, store)
    if as_json:
        print_json(found)
    else:
        names = ("leaf", "at", "run", "kind")
        rows = [[escape(str(x[name])) for name in names] for x in found["appended"]]
        print_table(f"{len(rows)} leaves were appended", ["leaf", "at", "run", "kind"], rows)
        spent = [
            (x["run"], x["unit"], x["adversary"], "yes" if x["amplified"] else "no", *x["epsilon"])
            for x in found["spent"]
        ]
        columns = ["run", "unit", "against", "amp.", "epsilon before", "and now"]
        print_table("what that spent", columns, spent)
        for problem in found["problems"]:
            print(f"WRONG {problem}")
    raise typer.Exit(1 if found["problems"] else 0)


def stderr() -> Any:
    """A console on stderr: progress belongs there."""
    from rich.console import Console

    return Console(stderr=True)


def _what(body: dict[str, Any]) -> str:
    if body["kind"] == "RELEASE":
        return f"{_released(body)}under charge {body['charge']}"
    if body["kind"] == "ABANDON":
        return f"nothing revealed: {body['reason']}"
    if body["kind"] == "CHARGE":
        return f"attempt {body['attempt']}, plan {str(body['plan'])[:12]}"
    if body["kind"] == "PLAN":
        mode = f"{body['rollout']['mode']} rollout of " if "rollout" in body else ""
        what = f"{mode}{body['name']} on population={body['population']}"
        return f"{what}, plan {body['plan'][:12]}"
    if body["kind"] == "STATUS":
        return str(body["status"])
    if body["kind"] == "POLICY":
        set_ = {k: v for k, v in body["policy"].items() if v not in (None, [])}
        return ", ".join(f"{k}={v}" for k, v in set_.items())
    if body["kind"] == "APPROVAL":
        return f"{body['verdict']} by {body['key'].partition('+')[0]}: {body['note']}"
    if body["kind"] == "AUDIT":
        return f"{body['method']}, {body['stage']}"
    if body["kind"] == "RESTORE":
        known = "unknown" if body["known"] is None else body["known"]
        return f"put back from a backup of {body['size']} leaves; newest known: {known}"
    return str(body["key"]) if body["kind"] == "KEY" else _later(body)


def _released(body: dict[str, Any]) -> str:
    """What a RELEASE names: a version, or those that a rollout evaluated."""
    if "arms" in body:
        return f"versions {', '.join(str(arm['number']) for arm in body['arms'])} evaluated, "
    return f"{body['name']}@{body['number']} " if "name" in body else ""


def _later(body: dict[str, Any]) -> str:
    """Of a version's life after its release, and of whose data and reads it is."""
    kind = body["kind"]
    if kind == "ACCESS":
        return f"{body['count']} reads and scores, {body['first']} to {body['last']}"
    if kind == "ERASURE":
        return f"{body['stage']}, of population={body['population']}"
    if kind == "RETIRE":
        return f"{body['model']}@{body['number']}: {body['reason']}"
    what = f"{body['model']}@{body['alias']}"
    if kind != "GATE":
        what += " -> nothing" if body["number"] is None else f" -> {body['number']}"
    return f"{what}: {body['reason']}"
