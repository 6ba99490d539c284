"""``tacit models lineage|diff|history|access-log``: what led to a version, what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tacit.cli.common import (
    HomeOption,
    JsonOption,
    number,
    open_store,
    print_json,
    print_table,
    recorded,
)

if TYPE_CHECKING:
    from rich.tree import Tree

    from tacit.server.store import Row

Reference = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="NAME, NAME@NUMBER, NAME@ALIAS or a digest's prefix."),
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (lineage, diff, history):
        app.command()(command)
    app.command("access-log")(access_log)


def lineage(model: Reference, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Show where a version came from, and what happened to it; each item with its leaf."""
    from rich.console import Console

    from tacit.server import lineage as lines
    from tacit.server.registry import ModelRegistry

    store = open_store(home)
    row = ModelRegistry(store.home, store).find(model)
    recorded(store, "lineage", f"model {row['name']}@{row['number']}")
    found = lines.lineage(store, row)
    if as_json:
        print_json(found)
        return
    # Wider than any line: a terminal wraps what it has no room for, and nothing is cut.
    Console(width=1000).print(_drawn(lines.tree(found)))


def _drawn(node: Any, under: Tree | None = None) -> Tree:
    """Nested text as rich draws it."""
    from rich.text import Text
    from rich.tree import Tree

    text, parts = node
    made = Tree(Text(text)) if under is None else under.add(Text(text))
    for part in parts:
        _drawn(part, made)
    return made


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A version.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Show how two versions differ: configuration, plan, code, metrics, epsilon, arrays."""
    from rich.markup import escape

    from tacit.server.differences import difference
    from tacit.server.registry import ModelRegistry

    store = open_store(home)
    registry = ModelRegistry(store.home, store)
    rows = registry.find(a), registry.find(b)
    for row in rows:
        recorded(store, "diff", f"model {row['name']}@{row['number']}")
    found = difference(store, *rows)
    if as_json:
        print_json(found)
        return
    names = [f"{place['model']}@{place['number']}" for place in found["versions"]]
    for what in ("configuration", "plan", "metrics", "epsilon"):
        if found[what]:
            cells = [[escape(str(cell)) for cell in line] for line in found[what]]
            print_table(what, ["name", *names], cells)
    if found["code"]:
        print_table("code", names, [found["code"]])
    columns = ["array", "shapes", "L2 distance", *(f"norm in {name}" for name in names)]
    rows_ = [
        (
            escape(x["name"]),
            " / ".join(dict.fromkeys(str(s) for s in x["shapes"])),
            number(x["distance"], 6, none="shapes differ"),
            *(number(norm, 6, none="not there") for norm in x["norms"]),
        )
        for x in found["arrays"]
    ]
    print_table("arrays", columns, rows_)


def history(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="NAME, or NAME@NUMBER.")],
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Show the moves of a model's aliases, its gates and retirements, or those of one version."""
    from rich.markup import escape

    from tacit.server.lifecycle import Lifecycle
    from tacit.server.registry import ModelRegistry

    store = open_store(home)
    row = ModelRegistry(store.home, store).find(model)
    one = None if model == row["name"] else row["number"]
    recorded(store, "history", f"model {row['name']}")
    rows = [{"leaf": r["index"], **r["body"]} for r in Lifecycle(store).history(row["name"], one)]
    if as_json:
        print_json(rows)
        return
    columns = ["leaf", "at", "what", "alias", "version", "follows", "by", "reason"]
    print_table(f"history of {model}", columns, [[escape(c) for c in _line(r)] for r in rows])


def _line(body: Row) -> list[str]:
    """A leaf's cells."""
    marks = [name for name in ("forced", "automatic") if body.get(name)]
    what = f"{body['kind']} ({', '.join(marks)})" if marks else body["kind"]
    named = body.get("number")
    version = "nothing" if body["kind"] in ("DEPLOY", "ROLLBACK") and named is None else named
    cells = (
        *(body["leaf"], body["at"], what, body.get("alias"), version),
        *(body.get("previous"), body["actor"], body["reason"]),
    )
    return ["" if cell is None else str(cell) for cell in cells]


def access_log(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Its name.")],
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Newest rows, at most.")] = 100,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Show who read a model's versions and what they scored; newest first, each with its leaf."""
    from rich.markup import escape

    from tacit.privacy.errors import MissingError
    from tacit.server.access.about import about

    store = open_store(home)
    if not store.versions(name=model):
        raise MissingError(f"model={model[:200]} isn't in this home", "tacit models list shows it")
    recorded(store, "access-log", f"model {model}")
    rows = about(store, model, limit)
    if as_json:
        print_json(rows)
        return
    cells = []
    for row in rows:
        body = row["body"]
        what = body["subject"] if row["kind"] == "read" else f"{body['model']}@{body['number']}"
        did = body["action"] if row["kind"] == "read" else f"score of {body.get('count')}"
        leaf = "not sealed yet" if row["leaf"] is None else row["leaf"]
        cells.append([row["id"], body["at"], body["actor"], did, what, row["request"], leaf])
    columns = ["id", "at", "who", "did", "to", "request", "leaf"]
    print_table(f"accesses of {model}", columns, [[escape(str(c)) for c in x] for x in cells])
