"""``tacit models``: the versions in a home."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tacit.cli import aliases, cards, versions
from tacit.cli.common import (
    HomeOption,
    JsonOption,
    number,
    open_store,
    print_json,
    print_table,
    recorded,
)
from tacit.cli.statement import statement

if TYPE_CHECKING:
    from tacit.server.registry import ModelRegistry
    from tacit.server.store import Row

app = typer.Typer(
    help="Model versions: where each came from, its file, and what became of it.",
    no_args_is_help=True,
)

Reference = Annotated[
    str, typer.Argument(metavar="MODEL", help="NAME, NAME@NUMBER, NAME@ALIAS or a digest's prefix.")
]


def _registry(home: str | None) -> ModelRegistry:
    from tacit.server.registry import ModelRegistry

    store = open_store(home)
    return ModelRegistry(store.home, store)


def _read(home: str | None, model: str, action: str) -> tuple[ModelRegistry, Row]:
    """A version whose artifact is about to be read, which is recorded."""
    from tacit.server.registry import ModelRegistry

    store = open_store(home)
    registry = ModelRegistry(store.home, store)
    row = registry.find(model)
    recorded(store, action, f"model {row['name']}@{row['number']}")
    return registry, row


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(help="Only this model's versions.")] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """List versions, oldest first, with the aliases that name each."""
    from tacit.server.lifecycle import Lifecycle

    registry = _registry(home)
    rows, life = registry.list(name), Lifecycle(registry.store)
    models = dict.fromkeys(row["name"] for row in rows)
    stages = {model: life.stages(model) for model in models}
    named = {model: life.aliases(model) for model in models}
    for row in rows:
        row["stage"] = stages[row["name"]][row["number"]]
        moves = named[row["name"]].items()
        row["aliases"] = {a: move.leaf for a, move in moves if move.number == row["number"]}
    if as_json:
        print_json(rows)
        return
    print_table(
        "versions",
        ["version", "stage", "run", "round", "accuracy", "artifact", "created"],
        [
            (
                f"{r['name']}@{r['number']}",
                r["stage"],
                r["run"],
                r["round"],
                number(r["metrics"].get("accuracy"), none=""),
                r["artifact"][:16],
                r["created_at"],
            )
            for r in rows
        ],
    )


@app.command()
def show(model: Reference, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Show one version: its parent, plan, charge and arrays; checks all that binds it."""
    from tacit.server.lifecycle import Lifecycle

    registry, row = _read(home, model, "show")
    arrays = registry.load(row)
    life = Lifecycle(registry.store)
    described: dict[str, Any] = {
        **row,
        "stage": life.stages(row["name"])[row["number"]],
        "path": str(registry.path(row["artifact"])),
        "arrays": {n: {"dtype": str(a.dtype), "shape": list(a.shape)} for n, a in arrays.items()},
    }
    if as_json:
        print_json(described)
        return
    print_table(f"{row['name']}@{row['number']}", ["field", "value"], described.items())


@app.command()
def export(
    model: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="NAME, NAME@NUMBER or a digest's prefix; with --device a run's settings.",
        ),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="PATH", help="Where to write it.")
    ] = None,
    device: Annotated[
        bool, typer.Option("--device", help="Graphs for devices, checked beside Opacus, signed.")
    ] = False,
    microbatch: Annotated[
        int | None, typer.Option(help="With --device: rows of a call; a device fills one.")
    ] = None,
    verify: Annotated[
        str | None, typer.Option(metavar="DIR", help="Check a folder that --device wrote.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="HEX", help="With --verify: the coordinator's key.")
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Write a version's safetensors file, or with --device a run's graphs for devices.

    tacit models export MODEL --to FILE; tacit models export --device SETTING=VALUE... --to DIR;
    tacit models export --verify DIR --key HEX.
    """
    from tacit.cli import device as devices
    from tacit.privacy.errors import ConfigError

    words = model or []
    if verify is not None:
        devices.check(verify, key, as_json)
        return
    if to is None:
        raise ConfigError("--to is missing", "say where to write it")
    if device:
        devices.export(words, to, home, microbatch, as_json)
        return
    if len(words) != 1:
        raise ConfigError(
            f"MODEL={' '.join(words)} must be one version",
            "NAME, NAME@NUMBER or a digest's prefix; a run's settings go with --device",
        )
    _version(words[0], to, as_json, home)


def _version(model: str, to: str, as_json: bool, home: str | None) -> None:
    """Writes a version's safetensors file and its attestation, after checking both."""
    from pathlib import Path

    from tacit.privacy.errors import StorageError
    from tacit.server.home import explained, write_durably

    registry, row = _read(home, model, "export")
    path, beside = Path(to), Path(f"{to}.dsse.json")
    for there in (path, beside):
        if there.exists():
            raise StorageError(f"{there} is there already", "choose another name, or remove it")
    data, envelope = registry.verified(row), registry.envelope(row)
    with explained(f"{path.parent} can't be made"):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(beside, envelope.encode())
    write_durably(path, data)
    key = str(registry.store.signer.verifier)
    if as_json:
        files = {"path": str(path), "envelope": str(beside)}
        print_json({**files, "artifact_sha256": row["artifact"], "key": key})
    else:
        print(f"{row['name']}@{row['number']} -> {path} (sha256 {row['artifact']})")
        print(f"check it anywhere with: tacit models verify {path} --key '{key}'")


@app.command()
def verify(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|FILE", help="A version, or a file that was exported.")
    ],
    envelope: Annotated[
        str | None, typer.Option(metavar="FILE", help="Of a file: FILE.dsse.json if left out.")
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="A key you know the ledger by.")
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Check that a version, or an exported file, is what the ledger's key says it is.

    With --key a file is checked without any home; a version's key must then be that one.
    """
    from pathlib import Path

    from tacit.privacy.errors import ConfigError
    from tacit.server import attested

    if envelope is not None or Path(model).is_file():
        if not key:
            raise ConfigError(
                "--key is missing", "say by which key you know the ledger: it prints it with --key"
            )
        found = attested.of_file(model, envelope or f"{model}.dsse.json", key)
    else:
        registry, row = _read(home, model, "verify")
        found = attested.of_version(registry, row, key or [])
    if as_json:
        print_json(found)
        return
    print_table(f"{found['subject']} is what was released", ["field", "value"], found.items())


app.command()(statement)
cards.register(app)
versions.register(app)
aliases.register(app)
