"""``tacit models statement``: what one version's privacy guarantee is, for others to read."""

from __future__ import annotations

from typing import Annotated

import typer

from tacit.cli.common import HomeOption, JsonOption, open_store, print_json


def statement(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="NAME, NAME@NUMBER or a digest's prefix.")
    ],
    to_html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="Write it as a page instead.")
    ] = None,
    as_json: JsonOption = False,
    about: Annotated[
        str | None,
        typer.Option("--about", metavar="FILE", help="TOML or YAML: what the operator states."),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Print a version's privacy statement, as Markdown; --json is the public registry's entry."""
    from pathlib import Path

    from tacit.privacy.errors import StorageError
    from tacit.privacy.statement.statement import markdown, registry_entry
    from tacit.server import statements
    from tacit.server.home import explained, write_durably
    from tacit.server.registry import ModelRegistry

    store = open_store(home)
    row = ModelRegistry(store.home, store).find(model)
    said = statements.read_about(Path(about)) if about is not None else None
    made = statements.of_version(store, row, said)
    if to_html is not None:
        path = Path(to_html)
        if path.exists():
            raise StorageError(f"{path} is there already", "choose another name, or remove it")
        with explained(f"{path.parent} can't be made"):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, statements.html(made).encode())
    if as_json:
        print_json(registry_entry(made))
    elif to_html is not None:
        print(f"{made['model']['version']} -> {to_html}")
    else:
        print(markdown(made))
