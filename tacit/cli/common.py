"""What the commands share: the home option, tables, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tacit.server.store import Store

HomeOption = Annotated[
    str | None,
    typer.Option("--home", metavar="DIR", help="State folder; TACIT_HOME, else .tacit."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def open_store(home: str | None) -> Store:
    """The database of an existing home.

    Raises:
        StorageError: there is none; looking must not make one.
    """
    import os
    from pathlib import Path

    from tacit.privacy.errors import StorageError
    from tacit.server.home import DEFAULT, Home
    from tacit.server.store import Store

    root = Path(home or os.environ.get("TACIT_HOME") or DEFAULT)
    if not (root / "tacit.db").is_file():
        raise StorageError(f"home={root} holds no tacit database", "tacit simulate makes one")
    return Store(Home(root))


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    Console().print(table)


def number(value: float | None, digits: int = 4, none: str = "not claimed") -> str:
    """A figure for a table."""
    return none if value is None else f"{value:.{digits}f}"
