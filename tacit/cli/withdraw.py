"""``tacit withdraw``: a client's own, signed statement that it takes part no more."""

from __future__ import annotations

from typing import Annotated

import typer

from tacit.cli.common import JsonOption, print_json


def withdraw(
    client_home: Annotated[
        str, typer.Option("--client-home", metavar="DIR", help="The client's folder.")
    ],
    population: Annotated[
        str, typer.Option("--population", metavar="NAME", help="As the operator calls it.")
    ],
    to: Annotated[str, typer.Option("--to", metavar="FILE", help="Where to write it.")],
    client: Annotated[
        int | None, typer.Option("--client", min=0, help="Its number, if the folder has several.")
    ] = None,
    ledger: Annotated[
        str | None, typer.Option("--ledger", metavar="NAME", help="The operator's ledger.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", metavar="FILE", help="One of it, instead.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Sign, offline, that a client withdraws: a file to hand to the operator."""
    from pathlib import Path

    from tacit.client import withdrawing

    origin = withdrawing.origin(ledger, Path(checkpoint) if checkpoint else None)
    made = withdrawing.from_folder(Path(client_home), population, client, origin)
    withdrawing.write(made, Path(to))
    if as_json:
        print_json(made.to_json())
    else:
        print(f"client {made.client} of {made.population} withdraws: hand {to} to the operator")
