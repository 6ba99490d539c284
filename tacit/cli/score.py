"""``tacit score``: a file's records scored by a version, and which version scored a request."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from tacit.cli.common import HomeOption, JsonOption, open_store, print_json, print_table


def score(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="NAME, which is its champion; NAME@ALIAS; NAME@NUMBER."
        ),
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option("--input", metavar="FILE", help="Records: .npy, .npz, .csv or .jsonl."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="FILE", help="Where the scores go, by its ending; receipts beside it."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Records of a receipt.")] = 1000,
    request: Annotated[
        str | None, typer.Option(help="With which the requests' ids begin; made if left out.")
    ] = None,
    receipt: Annotated[
        str | None,
        typer.Option(metavar="REQUEST", help="Instead: which version scored this request?"),
    ] = None,
    show: Annotated[
        int | None,
        typer.Option(metavar="ROW", help="Instead: a receipt that shows this row of --input."),
    ] = None,
    receipts: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="With --show: the file of receipts that scoring wrote."),
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Score records with a version, each batch with a receipt; or ask which version scored one.

    tacit score MODEL --input FILE --to FILE; tacit score --receipt REQUEST [--to FILE];
    tacit score --show ROW --input FILE --receipts FILE --to FILE.
    """
    from tacit.privacy.errors import ConfigError

    if receipt is not None:
        _asked(receipt, to, as_json, home)
    elif show is not None:
        if inputs is None or receipts is None or to is None:
            raise ConfigError("--show needs --input, --receipts and --to")
        _shown(show, inputs, receipts, to, home)
    elif model is None or inputs is None or to is None:
        raise ConfigError("score needs MODEL, --input and --to", "tacit score --help")
    else:
        _scored(model, inputs, to, batch, request, as_json, home)


def _scored(
    model: str,
    inputs: str,
    to: str,
    batch: int,
    request: str | None,
    as_json: bool,
    home: str | None,
) -> None:
    """Scores a file."""
    from pathlib import Path

    import numpy as np
    from rich.console import Console
    from rich.progress import Progress

    from tacit.privacy.errors import StorageError
    from tacit.server.home import write_durably
    from tacit.server.scoring import files
    from tacit.server.scoring.batch import Scorer

    path, kept = Path(to), Path(f"{to}.receipts.jsonl")
    for file in (path, kept):
        if file.exists():
            raise StorageError(f"{file} is there already", "choose another name, or remove it")
    files.written(path.suffix, np.zeros((1, 2), np.float32))  # Raises for another ending.
    scorer = Scorer(open_store(home), model)
    records = files.read(Path(inputs), scorer.served)
    made = []
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(f"{scorer.served.model}@{scorer.served.number}", total=len(records))
        for each in scorer.score(records, batch, request):
            made.append(each)
            bars.update(task, advance=len(each.outputs))
    lines = "".join(f"{json.dumps(each.to_json())}\n" for each in made)
    write_durably(kept, lines.encode())
    outputs = np.concatenate([each.outputs for each in made])
    write_durably(path, files.written(path.suffix, outputs))
    scorer.seal()
    found = {
        "model": scorer.served.model,
        "version": scorer.served.number,
        "artifact": scorer.served.artifact,
        "alias": scorer.place.alias,
        "leaf": scorer.place.leaf,
        "records": len(records),
        "requests": [each.receipt["request"] for each in made],
        "scores": str(path),
        "receipts": str(kept),
    }
    if as_json:
        print_json(found)
        return
    print(f"{len(records)} records by {found['model']}@{found['version']} -> {path}")
    print(f"{len(made)} receipts and their keys -> {kept}: whoever has them can show your records")


def _asked(request: str, to: str | None, as_json: bool, home: str | None) -> None:
    """Which version scored a request."""
    from tacit.cli.common import written
    from tacit.server.access.records import Recorder
    from tacit.server.scoring.receipts import envelope

    store = open_store(home)
    found = envelope(store, Recorder(store), request)
    if to is not None:
        written(to, f"{json.dumps(found)}\n".encode())
    elif as_json:
        print_json(found)
    else:
        leaf = found["inclusion"]["leaf"] if found["inclusion"] else "none yet"
        rows: list[tuple[str, Any]] = sorted(found["receipt"].items())
        print_table(f"request {request}", ["field", "value"], [*rows, ("ACCESS leaf", leaf)])


def _shown(row: int, inputs: str, receipts: str, to: str, home: str | None) -> None:
    """Writes a receipt that shows one row."""
    from pathlib import Path

    from tacit.cli.common import written
    from tacit.server.scoring.batch import reveal

    found = reveal(open_store(home), Path(receipts), Path(inputs), row)
    written(to, f"{json.dumps(found)}\n".encode())
